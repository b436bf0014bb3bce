"""Plain data that observing, deciding and applying share. Nothing here does I/O."""
