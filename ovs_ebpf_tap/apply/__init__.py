"""Makes the kernel be as desired: hooks, maps, qdiscs."""
