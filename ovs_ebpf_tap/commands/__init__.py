"""One module a command; `compare` has a package of its own."""
