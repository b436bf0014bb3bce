"""Requests to the kernel by netlink, and answers that are not to be mistaken."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from pyroute2.netlink import NLM_F_ACK, NLM_F_ECHO, NLM_F_REQUEST
from pyroute2.netlink.rtnl import RTM_GETQDISC
from pyroute2.netlink.rtnl.tcmsg import tcmsg

from ovs_ebpf_tap.lab.netns import Netns
from ovs_ebpf_tap.observe import netlink as nl
from ovs_ebpf_tap.observe.netlink import Netlink

pytestmark = pytest.mark.openvswitch


@pytest.fixture
def netlink() -> Iterator[Netlink]:
    """In a namespace with a device that has a clsact qdisc, and one that has none."""
    with Netns("netlink") as ns:
        ns.run("ip", "link", "add", "with", "type", "veth", "peer", "without")
        ns.run("tc", "qdisc", "add", "dev", "with", "clsact")
        made = ns.call(Netlink)
        yield made
        made.close()


def test_an_answer_that_comes_late_is_not_the_next_ones(netlink: Netlink) -> None:
    message = tcmsg()
    message["index"] = netlink.devices["with"].ifindex
    message["parent"] = nl._CLSACT_PARENT
    message["header"]["type"] = RTM_GETQDISC
    message["header"]["flags"] = NLM_F_REQUEST | NLM_F_ACK | NLM_F_ECHO
    message.encode()
    netlink._requests.send(message.data)
    assert netlink.ingress_qdisc(netlink.devices["without"].ifindex) is None
    assert netlink.ingress_qdisc(netlink.devices["with"].ifindex) == "clsact"


def test_no_answer_is_not_waited_for_without_end(netlink: Netlink) -> None:
    assert netlink._requests.gettimeout() == nl._PATIENCE
    ours, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    netlink._requests.close()
    netlink._requests = ours
    ours.settimeout(0.05)
    with kernel, pytest.raises(TimeoutError):
        netlink.ingress_qdisc(1)
