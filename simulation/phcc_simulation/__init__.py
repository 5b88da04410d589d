"""Virtual centres, the phantom, and whole studies on one machine."""
