"""From what was observed to what is desired: pure functions and classes without I/O."""
