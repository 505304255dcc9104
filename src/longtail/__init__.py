"""Long-tailed visual recognition."""
