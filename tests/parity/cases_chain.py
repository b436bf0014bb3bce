"""Mirrors that select the copies of others, rings of them, and of themselves."""

from __future__ import annotations

from ovs_ebpf_tap.model.desired import NATIVE
from parity.case import Case, CaseMirror, CasePort, announce, broadcast, flood, left, ports, talk

A_AND_B = [("a", flood("a")), ("a", flood("a", [10])), ("b", flood("b", [20]))]
CHAIN = [CaseMirror(src="a", output="m"), CaseMirror(dst="m", output="n")]

LOST = ("native_first", "native_tagged_first", "tunnel_first", "tunnel_source")
"""Where the first output changes tags in a way that is not followed."""

CASES = [
    Case("of_a_source", ports("a b m n"), CHAIN, A_AND_B, all_hooks=True),
    Case(
        "of_a_changed_copy_by_way_of_another",
        ports("a b c m n"),
        left(
            "",
            CaseMirror(src="a", select_vlan=(30,), output_vlan=20, snaplen=100),
            CaseMirror(dst="c", output="m"),
            CaseMirror(src="a", dst="m", output="n"),
        ),
        [("a", flood("a", [30]))],
    ),
    Case(
        "of_a_native_copy_beside_the_packet",
        ports("a b m n"),
        [
            CaseMirror(src="a", output="m", native=True, state=NATIVE, reason="'none'"),
            *left("native to a port that flows may output to", CaseMirror(dst="m", output="n")),
        ],
        [("a", flood("a"))],
        flows=["in_port={a},actions=output:{b},output:{m}", "actions=NORMAL"],
    ),
    Case(
        "of_a_destination",
        ports("a b m n"),
        [CaseMirror(dst="b", output="m"), CaseMirror(dst="m", output="n")],
        A_AND_B,
    ),
    Case(
        "of_both",
        ports("a b m n"),
        [CaseMirror(src="a", dst="b", output="m"), CaseMirror(dst="m", output="n")],
        A_AND_B,
    ),
    Case(
        "of_three",
        ports("a b m n o"),
        [*CHAIN, CaseMirror(dst="n", output="o")],
        A_AND_B,
    ),
    Case(
        "that_selects_the_packet_too",
        ports("a b m n"),
        [CaseMirror(src="a", output="m"), CaseMirror(src="a", dst="m b", output="n")],
        A_AND_B,
    ),
    Case(
        "that_forks",
        ports("a b m n o"),
        [*CHAIN, CaseMirror(dst="m", output="o")],
        A_AND_B,
    ),
    Case(
        "that_joins",
        ports("a b m n o"),
        [
            CaseMirror(src="a", output="m"),
            CaseMirror(src="a b", output="n"),
            CaseMirror(dst="m n", output="o"),
        ],
        A_AND_B,
    ),
    *(
        Case(
            f"with_vlans_{name}",
            ports("b", a=source, m=first, n=second),
            left("", *CHAIN) if name in LOST else CHAIN,
            A_AND_B,
        )
        for name, source, first, second in (
            ("access_first", CasePort(), CasePort(tag=30), CasePort()),
            ("access_second", CasePort(), CasePort(), CasePort(tag=30)),
            ("access_both", CasePort(), CasePort(tag=30), CasePort(tag=40)),
            ("access_source", CasePort(tag=10), CasePort(), CasePort()),
            ("access_all", CasePort(tag=10), CasePort(tag=30), CasePort()),
            ("native_first", CasePort(), CasePort(tag=10, vlan_mode="native-untagged"), CasePort()),
            (
                "native_tagged_first",
                CasePort(),
                CasePort(tag=30, vlan_mode="native-tagged"),
                CasePort(),
            ),
            (
                "native_second",
                CasePort(),
                CasePort(),
                CasePort(tag=10, vlan_mode="native-untagged"),
            ),
            ("first_trunks_other", CasePort(), CasePort(trunks=(0, 20)), CasePort()),
            ("tunnel_first", CasePort(), CasePort(tag=10, vlan_mode="dot1q-tunnel"), CasePort()),
            (
                "tunnel_source",
                CasePort(tag=10, vlan_mode="dot1q-tunnel"),
                CasePort(tag=30),
                CasePort(),
            ),
        )
    ),
    Case(
        "selects_vlan_second",
        ports("a b m n"),
        [CaseMirror(src="a b", output="m"), CaseMirror(dst="m", output="n", select_vlan=(10,))],
        A_AND_B,
    ),
    Case(
        "selects_vlan_of_access_output",
        ports("a b n", m=CasePort(tag=10)),
        [CaseMirror(src="a b", output="m"), CaseMirror(dst="m", output="n", select_vlan=(10,))],
        A_AND_B,
    ),
    Case(
        "into_a_vlan",
        ports("a b m", r=CasePort(tag=99)),
        [CaseMirror(src="a", output="m"), CaseMirror(dst="m", output_vlan=99)],
        A_AND_B,
    ),
    Case(
        "internal_first",
        ports("a b n", m=CasePort("internal")),
        CHAIN,
        A_AND_B,
        all_hooks=True,
        in_vm=True,
    ),
    Case("internal_second", ports("a b m", n=CasePort("internal")), CHAIN, A_AND_B),
    Case(
        "ring_of_two",
        ports("a b m n"),
        [CaseMirror(src="a", dst="n", output="m"), CaseMirror(src="b", dst="m", output="n")],
        A_AND_B,
        all_hooks=True,
        in_vm=True,
    ),
    Case(
        "ring_of_three",
        ports("a b m n o"),
        [
            CaseMirror(src="a", dst="o", output="m"),
            CaseMirror(dst="m", output="n"),
            CaseMirror(src="b", dst="n", output="o"),
        ],
        A_AND_B,
        in_vm=True,
    ),
    Case(
        "ring_of_access_ports",
        ports("a b", m=CasePort(tag=10), n=CasePort(tag=20)),
        [CaseMirror(src="a", dst="n", output="m"), CaseMirror(src="b", dst="m", output="n")],
        A_AND_B,
        in_vm=True,
    ),
    Case(
        "itself",
        ports("a b m"),
        [CaseMirror(src="a", dst="m", output="m")],
        A_AND_B,
    ),
    Case(
        "itself_alone",
        ports("a b m"),
        [CaseMirror(src="m", dst="m", output="m")],
        [*A_AND_B, ("m", flood("m"))],
        silent=True,
    ),
    Case(
        "itself_by_a_flow",
        ports("a b m"),
        [CaseMirror(dst="m", output="m")],
        A_AND_B,
        flows=["in_port={a},actions=output:{m}", "priority=0,actions=NORMAL"],
    ),
    Case(
        "output_by_a_flow",
        ports("a b m n"),
        [CaseMirror(src="b", output="m"), CaseMirror(dst="m", output="n")],
        A_AND_B,
        flows=["in_port={a},actions=output:{m},output:{b}", "priority=0,actions=NORMAL"],
    ),
    Case(
        "all_ports_and_a_chain",
        ports("a b m n"),
        [CaseMirror(select_all=True, output="m"), CaseMirror(dst="m", output="n")],
        A_AND_B,
    ),
    Case(
        "two_of_all_ports_by_a_flow",
        ports("a b m n"),
        [CaseMirror(select_all=True, output="m"), CaseMirror(select_all=True, output="n")],
        A_AND_B,
        flows=["in_port={a},actions=output:{n},output:{b}", "priority=0,actions=NORMAL"],
    ),
    Case(
        "identical_frames",
        ports("a b m n"),
        [CaseMirror(src="a", dst="b", output="m"), CaseMirror(dst="m", output="n")],
        [("a", [broadcast("a")] * 30)],
    ),
    Case(
        "learned",
        ports("a b c m n"),
        [CaseMirror(src="a", dst="a", output="m"), CaseMirror(dst="m c", output="n")],
        [("a", talk("a", "b")), ("b", talk("b", "a")), ("a", talk("a", "c"))],
        learn=announce("a", "b", "c"),
    ),
]
