"""Kinds of ports, names, sizes, protection, and what is left to OVS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ovs_ebpf_tap.lab.frames import Tags
from ovs_ebpf_tap.model.desired import INVALID, NATIVE
from parity.case import (
    Case,
    CaseMirror,
    CasePort,
    Sent,
    announce,
    flood,
    left,
    one_by_one,
    ports,
    sized,
    talk,
    whole_for_hooks,
)

ALL_TAGS: Sequence[Tags] = [[], [10], [20], [10, 20]]


def tagged(name: str) -> Sent:
    return name, [frame for tags in ALL_TAGS for frame in flood(name, tags)]


ACCESS = CasePort(tag=10)
UNTAGGED = CasePort(tag=10, vlan_mode="native-untagged")
TUNNEL = CasePort(tag=10, vlan_mode="dot1q-tunnel")

ACTIVE_BACKUP = CasePort(
    "bond",
    members=("p", "q"),
    settings=("bond_mode=active-backup", "other_config:bond-primary={p}"),
)
SLB = CasePort(
    "bond",
    members=("p", "q"),
    settings=("bond_mode=balance-slb", "other_config:bond-rebalance-interval=0"),
)

OUTPUT = [CaseMirror(src="a c", output="b")]

SENDS_AND_RECEIVES = ("both", "output_of_its_kind", "output_of_all")
"""Those where an internal port is selected for what it sends, and some port for what leaves."""

INTERNAL = [
    Case(
        f"{kind}_{name}",
        ports("a b m", i=replace(port, kind=kind), j=CasePort(kind)),
        whole_for_hooks(mirror) if kind == "internal" and name in SENDS_AND_RECEIVES else [mirror],
        [tagged("i"), tagged("a"), tagged("j")],
        all_hooks=name in ("source", "output", "destination"),
    )
    for kind in ("internal", "tap")
    for name, mirror, port in (
        ("source", CaseMirror(src="i", output="m"), CasePort()),
        ("destination", CaseMirror(dst="i", output="m"), CasePort()),
        ("both", CaseMirror(src="i", dst="i j", output="m"), CasePort()),
        ("output", CaseMirror(src="a", dst="b", output="i"), CasePort()),
        ("output_of_its_kind", CaseMirror(src="j", dst="j", output="i"), CasePort()),
        ("output_of_all", CaseMirror(select_all=True, output="i"), CasePort()),
        ("access_source", CaseMirror(src="i", output="m"), ACCESS),
        ("access_destination", CaseMirror(dst="i", output="m"), ACCESS),
        ("access_output", CaseMirror(src="a", dst="b", output="i"), ACCESS),
        ("native_source", CaseMirror(src="i", output="m"), UNTAGGED),
        ("native_output", CaseMirror(src="a", output="i"), UNTAGGED),
        ("tunnel_source", CaseMirror(src="i", output="m"), TUNNEL),
        ("tunnel_output", CaseMirror(src="a", output="i"), TUNNEL),
    )
]

LOCAL = [
    Case(
        f"local_{name}",
        ports("a b m", local=replace(port, kind="local")),
        [mirror],
        [tagged("local"), tagged("a")],
    )
    for name, mirror, port in (
        ("source", CaseMirror(src="local", output="m"), CasePort()),
        ("destination", CaseMirror(dst="local", output="m"), CasePort()),
        ("output", CaseMirror(src="a", dst="b", output="local"), CasePort()),
        ("access_source", CaseMirror(src="local", output="m"), ACCESS),
    )
]

BONDS = [
    Case(
        f"bond_{mode}_{name}",
        ports("a m", c=CasePort(tag=10), b=port),
        mirrors,
        [
            ("a", [frame for tags in ALL_TAGS for frame in flood("a", tags)]),
            ("b.p", flood("p")),
            ("b.q", flood("q")),
            ("b.p", flood("p", [10])),
            ("c", flood("c")),
        ],
        all_hooks=(mode, name) == ("active_backup", "output"),
        in_vm=(mode, name) == ("active_backup", "output"),
    )
    for mode, port in (("active_backup", ACTIVE_BACKUP), ("slb", SLB))
    for name, mirrors in (
        ("source", [CaseMirror(src="b", output="m")]),
        ("destination", [CaseMirror(dst="b", output="m")]),
        ("both", [CaseMirror(select_all=True, output="m")]),
        ("output", OUTPUT if mode == "active_backup" else left("is a bond", *OUTPUT)),
    )
] + [
    Case(
        "bond_access_output",
        ports(
            "a m",
            b=replace(ACTIVE_BACKUP, tag=10),
        ),
        [CaseMirror(src="a", output="b")],
        [tagged("a")],
    ),
    Case(
        "bond_access_source",
        ports(
            "a m",
            b=replace(ACTIVE_BACKUP, tag=10),
        ),
        [CaseMirror(src="b", dst="b", output="m")],
        [("b.p", flood("p")), ("b.p", flood("p", [10])), tagged("a")],
    ),
    Case(
        "bond_learned",
        ports("a m", b=ACTIVE_BACKUP),
        [CaseMirror(src="b", dst="b", output="m")],
        [("a", talk("a", "b.p")), ("b.p", talk("b.p", "a"))],
        learn=announce("a", "b.p"),
    ),
]

NAMES = [
    Case(
        f"name_{name}",
        {
            "a": CasePort(device=source),
            "b": CasePort(),
            "m": CasePort(device=output),
            "n": CasePort(device=other),
        },
        [CaseMirror(src="a", output="m"), CaseMirror(src="b", output="n")],
        [("a", flood("a")), ("b", flood("b"))],
    )
    for name, source, output, other in (
        ("odd_characters", "a.b-c_d@e", "m+n=o,p;q", "$HOME*1"),
        ("quotes", "a'b\"c", "m\\n", "[n]{o}"),
        ("longest", "a23456789012345", "m23456789012345", "n23456789012345"),
        ("last_character", "same-name-but-1", "same-name-but-2", "same-name-but-3"),
        ("leading_dash", "-a", "--m", "-n-"),
        ("number", "17", "0x1f", "4095"),
        ("beyond_ascii", "prise-d'é", "größe", "日本"),
    )
]

SENT: Mapping[str, list[Sent]] = {
    "runts": [("a", [sized("a", length) for length in range(14, 60)])],
    "runts_tagged": [("a", [sized("a", length, [10]) for length in range(18, 64, 3)])],
    "runts_internal": [("a2", [sized("a2", length) for length in range(14, 60, 5)])],
    "common": [("a", [sized("a", length) for length in (60, 61, 62, 63, 64, 65, 128, 1400)])],
    "longest": one_by_one(
        "a",
        *([sized("a", length)] for length in (1513, 1514)),
        *([sized("a", length, [10])] for length in (1514, 1517, 1518)),
    ),
    "longest_internal": one_by_one("a2", [sized("a2", 1514)], [sized("a2", 1518, [10])]),
}

SIZES = [
    Case(
        f"size_{name}",
        ports(
            "a b",
            a2=CasePort("internal"),
            m=CasePort(),
            n=CasePort(tag=10),
            o=CasePort("internal"),
            p=CasePort(),
        ),
        [
            CaseMirror(src="a", dst="b", output="m"),
            CaseMirror(src="a2", output="p"),
            CaseMirror(src="a", output="n"),
            CaseMirror(src="a", output="o"),
        ],
        sent,
        all_hooks=name == "common",
    )
    for name, sent in SENT.items()
]

MTUS = [
    Case(
        f"mtu_{name}",
        ports("b", a=source, m=output),
        [CaseMirror(src="a", dst="b", output="m")],
        one_by_one(
            "a",
            *([sized("a", length)] for length in (900, 1013, 1014, 1015, 1018, 1019, 1400)),
            *([sized("a", length, [10])] for length in (1014, 1017, 1018, 1019, 1022, 1400)),
        ),
        all_hooks=name == "of_the_output",
    )
    for name, source, output in (
        ("of_the_output", CasePort(), CasePort(mtu=1000)),
        ("of_an_access_output", CasePort(), CasePort(mtu=1000, tag=10)),
        ("of_an_output_for_an_access_port", CasePort(tag=10), CasePort(mtu=1000)),
        ("of_an_internal_output", CasePort(), CasePort("internal", mtu=1000)),
    )
]

BOTH = CaseMirror(src="a b", dst="b", output="m")

PROTECTED = [
    Case(
        f"protected_{name}",
        ports("b m", **changed),
        left("protected", BOTH) if name == "source_and_output" else [BOTH],
        [("a", flood("a")), ("b", flood("b"))],
    )
    for name, changed in {
        "source": {"a": CasePort(protected=True)},
        "output": {"a": CasePort(), "m": CasePort(protected=True)},
        "source_and_output": {"a": CasePort(protected=True), "m": CasePort(protected=True)},
        "source_and_destination": {"a": CasePort(protected=True), "b": CasePort(protected=True)},
    }.items()
]

LEFT_TO_OVS = [
    Case(
        "patch_source",
        ports("a m", x=CasePort("patch")),
        [CaseMirror(src="x", output="m", state=NATIVE, reason="patch")],
        [("x", flood("x")), ("a", flood("a"))],
        silent=True,
    ),
    Case(
        "patch_destination",
        ports("a m", x=CasePort("patch")),
        [CaseMirror(dst="x", output="m", state=NATIVE, reason="patch")],
        [("x", flood("x")), ("a", flood("a"))],
        silent=True,
    ),
    Case(
        "patch_output",
        ports("a b", x=CasePort("patch")),
        [CaseMirror(src="a", output="x", state=NATIVE, reason="patch")],
        [("a", flood("a")), ("b", flood("b"))],
    ),
    Case(
        "patch_beside",
        ports("a b m", x=CasePort("patch")),
        [CaseMirror(src="a", dst="b", output="m")],
        [("x", flood("x")), ("a", flood("a"))],
    ),
    Case(
        "tunnel_source",
        ports("a b m", v=CasePort("vxlan")),
        [CaseMirror(src="a v", output="m", state=NATIVE, reason="vxlan")],
        [("a", flood("a")), ("b", flood("b"))],
    ),
    Case(
        "tunnel_destination",
        ports("a b m", v=CasePort("vxlan")),
        [CaseMirror(dst="b v", output="m", state=NATIVE, reason="vxlan")],
        [("a", flood("a")), ("b", flood("b"))],
    ),
    Case(
        "tunnel_output",
        ports("a b", v=CasePort("vxlan")),
        [CaseMirror(src="a", output="v", state=NATIVE, reason="vxlan")],
        [("a", flood("a")), ("b", flood("b"))],
        silent=True,
    ),
    Case(
        "tunnel_beside",
        ports("a b m", v=CasePort("vxlan")),
        [CaseMirror(src="a", dst="b", output="m")],
        [("a", flood("a")), ("b", flood("b"))],
    ),
    Case(
        "absent_source",
        ports("a b m", x=CasePort("absent")),
        [CaseMirror(src="a x", output="m")],
        [("a", flood("a")), ("b", flood("b"))],
    ),
    Case(
        "absent_output",
        ports("a b", x=CasePort("absent")),
        [CaseMirror(src="a", output="x", state=NATIVE, reason="no network device")],
        [("a", flood("a")), ("b", flood("b"))],
        silent=True,
    ),
    Case(
        "no_output",
        ports("a b"),
        [CaseMirror(src="a", state=INVALID, reason="neither output_port nor output_vlan")],
        [("a", flood("a"))],
        silent=True,
    ),
]

CASES = [
    *(INTERNAL + LOCAL + BONDS + NAMES + SIZES + MTUS + PROTECTED + LEFT_TO_OVS),
]
