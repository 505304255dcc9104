"""Which images are used, and which of them are train, val or test; not in which order they are drawn."""
