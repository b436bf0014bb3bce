"""What keeps a mirror by itself from being offloaded: each check raises NotOffloadedError."""
