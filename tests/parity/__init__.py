"""Open vSwitch as the oracle: what arrives behind every port is the same, whoever copies.

A case is data (`case.py`; they are in `cases_*.py`): ports, mirrors, flows, and frames to send.
`runner.py` plays it on a real switch without mirrors, with Open vSwitch copying, and with hooks
copying, and compares what was captured. `test_generated.py` makes cases up (`strategies.py`).

    python -m pytest tests/parity -k vlan
    OVS_EBPF_TAP_EXAMPLES=5000 python -m pytest tests/parity/test_generated.py

The variable sets how many examples are generated, and has every run generate others; without it
they are few, and always the same.
"""
