"""`python -m ovs_ebpf_tap`."""

import sys

from ovs_ebpf_tap.cli import main

if __name__ == "__main__":
    sys.exit(main())
