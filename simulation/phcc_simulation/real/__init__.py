"""Studies on real, openly licensed data: rats' liver curves, hippocampi, adrenal glands."""
