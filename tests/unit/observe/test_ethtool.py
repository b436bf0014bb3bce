"""Devices' features as the kernel tells of them, beside what ethtool reads."""

from __future__ import annotations

import re

import pytest

from ovs_ebpf_tap.lab.netns import Netns
from ovs_ebpf_tap.observe import ethtool

_OTHER_NAMES = {
    "rx-checksumming": "rx-checksum",
    "generic-segmentation-offload": "tx-generic-segmentation",
    "generic-receive-offload": "rx-gro",
    "large-receive-offload": "rx-lro",
    "rx-vlan-offload": "rx-vlan-hw-parse",
    "tx-vlan-offload": "tx-vlan-hw-insert",
    "ntuple-filters": "rx-ntuple-filter",
    "receive-hashing": "rx-hashing",
}
_OF_SEVERAL = {
    "tx-checksumming",
    "scatter-gather",
    "tcp-segmentation-offload",
    "udp-fragmentation-offload",
}


@pytest.mark.root
def test_features() -> None:
    with Netns("ethtool") as ns:
        ns.run("ip", "link", "add", "d0", "type", "veth")
        shown = ns.run("ethtool", "-k", "d0").stdout
        lines = re.findall(r"^\s*([\w-]+): (on|off)", shown, re.MULTILINE)
        expected = {_OTHER_NAMES.get(name, name) for name, state in lines if state == "on"}
        assert ns.call(lambda: ethtool.features("d0")) == expected - _OF_SEVERAL
        assert not ns.call(lambda: ethtool.takes_flows("d0"))


def test_no_such_device() -> None:
    with pytest.raises(OSError, match="No such device"):
        ethtool.features("no-such-device")
    assert ethtool.takes_flows("no-such-device")
