"""What there is: Open vSwitch's database, flow tables and process, and the kernel's devices."""
