"""bpf(2), and the programs: compiled, kept, patched and loaded."""
