"""Port mirroring for Open vSwitch, copied by eBPF programs on the ports' own devices."""
