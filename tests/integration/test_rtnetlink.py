"""Requests by rtnetlink: answers that come late, or not at all."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from pyroute2.netlink import NLM_F_ACK, NLM_F_ECHO, NLM_F_REQUEST
from pyroute2.netlink.rtnl import RTM_GETQDISC
from pyroute2.netlink.rtnl.tcmsg import tcmsg

from ovs_ebpf_tap.apply.rtnetlink import ANSWER_TIMEOUT
from ovs_ebpf_tap.apply.traffic_control import TrafficControl
from ovs_ebpf_tap.lab.netns import Netns
from ovs_ebpf_tap.observe import tc

WITH, WITHOUT = 77, 78
"""Ifindexes."""


@pytest.fixture
def traffic_control() -> Iterator[TrafficControl]:
    """In a namespace with a device that has a clsact qdisc, and one that has none."""
    with Netns("netlink") as ns:
        ns.run(*f"ip link add with index {WITH} type veth peer without index {WITHOUT}".split())
        ns.run("tc", "qdisc", "add", "dev", "with", "clsact")
        made = ns.call(TrafficControl.open)
        yield made
        made.close()


def test_an_answer_that_comes_late_is_not_the_next_ones(traffic_control: TrafficControl) -> None:
    message = tcmsg()
    message["index"] = WITH
    message["parent"] = tc.INGRESS_PARENT
    message["header"]["type"] = RTM_GETQDISC
    message["header"]["flags"] = NLM_F_REQUEST | NLM_F_ACK | NLM_F_ECHO
    message.encode()
    traffic_control.rtnetlink._socket.send(message.data)
    assert traffic_control.ingress_qdisc(WITHOUT) is None
    assert traffic_control.ingress_qdisc(WITH) == "clsact"


def test_no_answer_is_not_waited_for_without_end(traffic_control: TrafficControl) -> None:
    assert traffic_control.rtnetlink._socket.gettimeout() == ANSWER_TIMEOUT
    ours, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    traffic_control.rtnetlink._socket.close()
    traffic_control.rtnetlink._socket = ours
    ours.settimeout(0.05)
    with kernel, pytest.raises(TimeoutError):
        traffic_control.ingress_qdisc(1)
