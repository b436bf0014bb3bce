"""VLAN 4095, by which parked mirrors are told: OVS copies its frames even while parked."""

from __future__ import annotations

from ovs_ebpf_tap.lab.frames import Tag
from parity.case import Case, CaseMirror, CasePort, broadcast, flood, ports

CASES = [
    Case(
        "trunk_source",
        ports("a b m"),
        [CaseMirror(src="a", output="m")],
        [("a", flood("a", [4095])), ("a", flood("a", [Tag(4095, pcp=3)])), ("a", flood("a"))],
        all_hooks=True,
    ),
    Case(
        "trunk_destination",
        ports("a b m"),
        [CaseMirror(dst="b", output="m")],
        [("a", flood("a", [4095])), ("a", flood("a", [10]))],
    ),
    Case(
        "source_and_destination",
        ports("a b c m"),
        [CaseMirror(src="a", dst="b c", output="m")],
        [("a", flood("a", [4095])), ("b", flood("b", [4095])), ("b", flood("b", [10]))],
    ),
    Case(
        "access_source",
        ports("b m", a=CasePort(tag=4095)),
        [CaseMirror(src="a", output="m")],
        [("a", flood("a")), ("a", flood("a", [Tag(0, pcp=1)])), ("a", flood("a", [10]))],
    ),
    Case(
        "access_source_and_others",
        ports("b m", a=CasePort(tag=4095)),
        [CaseMirror(src="a b", output="m")],
        [("a", flood("a")), ("b", flood("b")), ("b", flood("b", [4095]))],
    ),
    Case(
        "access_destination",
        ports("a m", b=CasePort(tag=4095)),
        [CaseMirror(src="a", dst="b", output="m")],
        [("a", flood("a", [4095])), ("a", flood("a")), ("b", flood("b"))],
    ),
    Case(
        "native_source",
        ports("b m", a=CasePort(tag=4095, vlan_mode="native-untagged"), n=CasePort(tag=4095)),
        [CaseMirror(src="a", output="m"), CaseMirror(src="a", output="n")],
        [("a", flood("a")), ("a", flood("a", [4095])), ("a", flood("a", [10]))],
    ),
    Case(
        "access_output",
        ports("a b", m=CasePort(tag=4095)),
        [CaseMirror(src="a", output="m")],
        [("a", flood("a")), ("a", flood("a", [4095]))],
    ),
    Case(
        "selected_beside_another",
        ports("a b m"),
        [CaseMirror(src="a", output="m", select_vlan=(10, 4095))],
        [("a", flood("a", [4095])), ("a", flood("a", [10])), ("a", flood("a"))],
    ),
    Case(
        "snaplen",
        ports("a b m"),
        [CaseMirror(src="a", output="m", snaplen=160)],
        [("a", flood("a", [4095])), ("a", flood("a", [10]))],
    ),
    Case(
        "output_vlan",
        ports("a b"),
        [CaseMirror(src="a", output_vlan=99)],
        [("a", flood("a", [4095])), ("a", flood("a", [10]))],
    ),
    Case(
        "into_4095",
        ports("a b"),
        [CaseMirror(src="a", output_vlan=4095)],
        [("a", flood("a", [4095])), ("a", flood("a", [10]))],
    ),
    Case(
        "inner",
        ports("a b m", c=CasePort(tag=10, vlan_mode="dot1q-tunnel")),
        [CaseMirror(src="a c", output="m")],
        [("a", [broadcast("a", [10, 4095])]), ("c", flood("c", [4095]))],
    ),
    Case(
        "double_tagged",
        ports("a b m"),
        [CaseMirror(src="a", dst="b", output="m")],
        [("a", [broadcast("a", [4095, 10])])],
    ),
]
