"""VLAN settings of source, destination and output ports, in all combinations."""

from __future__ import annotations

from ovs_ebpf_tap.lab.frames import ETH_8021AD, Tag, Tags, with_tags
from parity.case import (
    Case,
    CaseMirror,
    CasePort,
    Sent,
    announce,
    broadcast,
    flood,
    left,
    ports,
    talk,
)

KINDS = {
    "access": CasePort(tag=10),
    "access20": CasePort(tag=20, vlan_mode="access"),
    "trunk": CasePort(),
    "trunk_some": CasePort(trunks=(10, 30)),
    "trunk_tag": CasePort(tag=10, vlan_mode="trunk"),
    "trunk_zero": CasePort(trunks=(0, 20)),
    "nat_tagged": CasePort(tag=10, vlan_mode="native-tagged"),
    "nat_tag_some": CasePort(tag=10, trunks=(20,), vlan_mode="native-tagged"),
    "nat_untagged": CasePort(tag=10, vlan_mode="native-untagged"),
    "nat_unt_some": CasePort(tag=10, trunks=(20,), vlan_mode="native-untagged"),
    "tunnel": CasePort(tag=10, vlan_mode="dot1q-tunnel"),
    "tunnel_q": CasePort(tag=10, vlan_mode="dot1q-tunnel", qinq_ethtype="802.1q"),
    "tunnel_cvlans": CasePort(tag=10, vlan_mode="dot1q-tunnel", cvlans=(0, 20)),
    "access_zero": CasePort(tag=0),
}
"""The settings of a port, by a short name."""

TAGS: dict[str, Tags] = {
    "none": [],
    "zero": [0],
    "priority": [Tag(0, pcp=5)],
    "10": [10],
    "10_pcp": [Tag(10, pcp=3)],
    "20": [20],
    "30": [30],
    "1": [1],
    "4094": [4094],
    "ad_10": [Tag(10, tpid=ETH_8021AD)],
    "ad_10_q_20": [Tag(10, pcp=1, tpid=ETH_8021AD), Tag(20, pcp=2)],
    "q_10_q_20": [10, 20],
    "zero_q_10": [Tag(0, pcp=2), 10],
    "ad_10_q_20_q_30": [Tag(10, tpid=ETH_8021AD), 20, 30],
}
"""The tags that frames come with.

Not with the DEI bit: OVS loses it where it puts a tag back that it took off for another output.
"""

DEI: dict[str, Tags] = {
    "zero_dei": [Tag(0, dei=1)],
    "10_dei": [Tag(10, dei=1)],
    "10_pcp_dei": [Tag(10, pcp=7, dei=1)],
}

SECOND_LOST = {
    name: TAGS[name] for name in ("zero_q_10", "ad_10_q_20", "q_10_q_20", "ad_10_q_20_q_30")
}
"""What leaves a native-untagged port of VLAN 10 looking as if it came in its second tag's VLAN."""

OUTPUTS = {f"m_{kind}": port for kind, port in KINDS.items()}
"""An output port of each kind."""


def all_tags(name: str, *, to: str = "") -> Sent:
    """A frame with each of the tags, but those that get lost at a port of kind `to`."""
    lost = SECOND_LOST if to in ("nat_untagged", "nat_unt_some") else ()
    return name, [broadcast(name, tags, text) for text, tags in TAGS.items() if text not in lost]


def leaving(kinds: set[str], *mirrors: CaseMirror) -> list[CaseMirror]:
    """Mirrors of what leaves ports of these kinds, beside access ports."""
    tunnels = {"tunnel", "tunnel_q", "tunnel_cvlans"}
    return left("dot1q-tunnel", *mirrors) if kinds & tunnels else list(mirrors)


SOURCES = [
    Case(
        f"source_{kind}",
        ports("b", a=port, **OUTPUTS),
        [CaseMirror(src="a", output=output) for output in OUTPUTS],
        [all_tags("a"), all_tags("b")],
        all_hooks=kind in ("access", "nat_untagged"),
        in_vm=kind == "access",
    )
    for kind, port in KINDS.items()
]

DESTINATIONS = [
    Case(
        f"destination_{kind}",
        ports("a", c=CasePort(tag=10), b=port, **OUTPUTS),
        leaving({kind}, *(CaseMirror(dst="b", output=output) for output in OUTPUTS)),
        [all_tags("a", to=kind), ("c", flood("c", [Tag(0, pcp=4)])), ("c", flood("c"))],
        all_hooks=kind in ("nat_tagged", "tunnel"),
        in_vm=kind == "access",
    )
    for kind, port in KINDS.items()
]

BOTH = [
    Case(
        f"source_{kind}_destination_{other}",
        ports("m", n=CasePort(tag=20), a=KINDS[kind], b=KINDS[other]),
        leaving(
            {kind, other},
            CaseMirror(src="a", dst="b", output="m"),
            CaseMirror(src="b", dst="a", output="n"),
        ),
        [all_tags("a", to=other), all_tags("b", to=kind)],
    )
    for kind, other in (
        ("access", "trunk"),
        ("access", "access"),
        ("trunk", "access"),
        ("trunk", "nat_untagged"),
        ("nat_tagged", "trunk_some"),
        ("nat_untagged", "access"),
        ("tunnel", "trunk"),
        ("trunk", "tunnel"),
        ("tunnel", "tunnel"),
    )
]

T_TOO = CaseMirror(src="a b", dst="t", output="m_untagged")

PRIORITY_TAGS = [
    Case(
        f"priority_tags_{mode.replace('-', '_')}",
        ports(
            "b",
            a=CasePort(tag=10),
            t=CasePort(tag=10, priority_tags=mode),
            m=CasePort(priority_tags=mode),
            m_access=CasePort(tag=10, priority_tags=mode),
            m_untagged=CasePort(tag=10, vlan_mode="native-untagged", priority_tags=mode),
        ),
        [
            CaseMirror(src="a b", output="m"),
            CaseMirror(src="a b", output="m_access"),
            *(left("priority-tags", T_TOO) if mode != "never" else [T_TOO]),
        ],
        [all_tags("a"), all_tags("b"), all_tags("t")],
    )
    for mode in ("if-nonzero", "always", "never", "true")
]

C_TOO = CaseMirror(src="a", dst="c", output="m")
TUNNELED = "takes all tags off of what tunnels bring"

VLAN_LIMIT = [
    Case(
        f"limit_{limit}_{name}",
        ports("b m", a=port, c=CasePort(tag=10), n=CasePort(tag=10, vlan_mode="dot1q-tunnel")),
        [
            *(left(TUNNELED, C_TOO) if name == "tunnel" else [C_TOO]),
            CaseMirror(src="b", dst="a", output="n"),
        ],
        [all_tags("a"), all_tags("b", to=name), all_tags("c", to=name)],
        open_vswitch=(f"other_config:vlan-limit={limit}",),
    )
    for limit in (0, 1, 2)
    for name, port in (
        ("trunk", KINDS["trunk"]),
        ("trunk_some", KINDS["trunk_some"]),
        ("tunnel", KINDS["tunnel"]),
        ("nat_untagged", KINDS["nat_untagged"]),
    )
]

OTHERS = [
    Case(
        "plain",
        ports("a b m"),
        [CaseMirror(src="a", output="m")],
        [("a", flood("a")), ("b", flood("b"))],
        all_hooks=True,
        in_vm=True,
    ),
    Case(
        "dei",
        ports("a b m"),
        [CaseMirror(src="a", output="m")],
        [(name, [broadcast(name, tags, text) for text, tags in DEI.items()]) for name in "ab"],
        in_vm=True,
    ),
    Case(
        "not_admitted",
        ports("b m", a=CasePort(tag=10), c=CasePort(trunks=(30,))),
        [CaseMirror(src="a c", output="m")],
        [
            ("a", flood("a", [10])),
            ("a", flood("a", [20])),
            ("c", flood("c")),
            ("c", flood("c", [10])),
            ("c", flood("c", [0])),
            ("b", flood("b")),
        ],
        silent=True,
    ),
    Case(
        "same_frame_from_different_vlans",
        ports("d m", a=CasePort(tag=10), b=CasePort(tag=20), c=CasePort()),
        [CaseMirror(src="a b c", dst="d", output="m")],
        [(name, [broadcast("a")] * 2) for name in "abc"]
        + [("c", [with_tags(broadcast("a"), [vlan]) for vlan in (30, 10)])],
    ),
    *(
        Case(
            f"learned_across_modes{name}",
            ports(
                "",
                a=CasePort(tag=10),
                b=CasePort(),
                c=CasePort(tag=10, vlan_mode="native-untagged"),
                m=output,
            ),
            [CaseMirror(src="a", dst="c", output="m"), CaseMirror(dst="b", output="m")],
            [
                ("a", talk("a", "b", to_tags=[10])),
                ("b", talk("b", "a", [10])),
                ("b", talk("b", "c", [10])),
                ("c", talk("c", "a")),
            ],
            learn=[*announce("a", "c"), *announce("b", tags=[10])],
            datapaths=datapaths,
        )
        for name, output, datapaths in (
            ("", CasePort(), ("system",)),
            ("_to_access", CasePort(tag=10), ("netdev", "system")),
        )
    ),
]

CASES = [*OTHERS, *SOURCES, *DESTINATIONS, *BOTH, *PRIORITY_TAGS, *VLAN_LIMIT]
