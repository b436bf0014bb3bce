"""What waits in packet sockets, as the kernel tells."""

from __future__ import annotations

import socket

from ovs_ebpf_tap.lab.frames import sequenced
from ovs_ebpf_tap.lab.netns import Netns
from ovs_ebpf_tap.lab.switch import Switch
from ovs_ebpf_tap.lab.waiting import wait_for
from ovs_ebpf_tap.observe.packet_sockets import queued

ETH_P_ALL = 3


def test_what_waits_in_a_socket_is_told(switch: Switch) -> None:
    """By the device that it waits on; nothing once it is taken out."""
    a, b = (switch.add_host(name, with_ip=False) for name in "ab")
    ns: Netns = switch.ns
    index = ns.call(lambda: socket.if_nametoindex(a.port))
    with ns.socket(socket.AF_PACKET, socket.SOCK_RAW) as reader:
        reader.bind((a.port, ETH_P_ALL))
        assert ns.call(queued).get(index) == 0
        a.send([sequenced(a, b, 1, number) for number in range(20)])
        wait_for(lambda: ns.call(queued).get(index), what="frames in the socket")
        reader.setblocking(False)
        for _ in range(20):
            reader.recv(1 << 16)
        wait_for(lambda: ns.call(queued).get(index) == 0, what="an empty socket")
