"""Several seeds of one study: run side by side, and judged together by what they say over patients and seeds."""
