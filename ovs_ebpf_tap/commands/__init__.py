"""The commands that are not `status` and `compare`."""
