"""`output_vlan` (RSPAN): copies go into a VLAN, and out of every port that carries it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ovs_ebpf_tap.lab.frames import ETH_8021AD, Tag, Tags, ethernet
from parity.case import (
    EXPERIMENTAL,
    Case,
    CaseMirror,
    CasePort,
    Sent,
    announce,
    broadcast,
    flood,
    left,
    ports,
    station,
    talk,
)

RSPAN = 99

RESERVED = (
    *(f"01:80:c2:00:00:{last:02x}" for last in range(0x11)),
    *("01:80:c2:00:00:20", "01:80:c2:00:00:2f"),
    *("00:e0:2b:00:00:00", "00:e0:2b:00:00:04", "00:e0:2b:00:00:06"),
    *("01:00:0c:00:00:00", "01:00:0c:cc:cc:cc", "01:00:0c:cc:cc:cd", "01:00:0c:cd:cd:cd"),
    *(f"01:00:0c:cc:cc:c{last}" for last in range(9)),
)
"""Addresses of link protocols, which OVS copies into no VLAN, and some close to them."""


def reserved(name: str) -> Sent:
    source = station(name).mac
    return name, [ethernet(mac, source, EXPERIMENTAL, b"reserved" * 7) for mac in RESERVED]


TAGGED: Sequence[Tags] = [
    [],
    [0],
    [Tag(0, pcp=3)],
    [10],
    [Tag(10, pcp=5)],
    [20],
    [10, 20],
    [20, 10],
]


def some_tags(name: str) -> Sent:
    return name, [broadcast(name, tags, str(n)) for n, tags in enumerate(TAGGED)]


CARRIERS = {
    "trunk": CasePort(),
    "trunk_with": CasePort(trunks=(10, RSPAN)),
    "trunk_without": CasePort(trunks=(0, 10)),
    "access": CasePort(tag=RSPAN),
    "access_of_another": CasePort(tag=10),
    "native_tagged": CasePort(tag=RSPAN, vlan_mode="native-tagged"),
    "native_untagged": CasePort(tag=RSPAN, vlan_mode="native-untagged"),
    "native_of_another": CasePort(tag=10, vlan_mode="native-untagged"),
    "native_trunks": CasePort(tag=10, trunks=(RSPAN,), vlan_mode="native-untagged"),
    "tunnel": CasePort(tag=RSPAN, vlan_mode="dot1q-tunnel"),
    "tunnel_q": CasePort(tag=RSPAN, vlan_mode="dot1q-tunnel", qinq_ethtype="802.1q"),
    "tunnel_cvlans": CasePort(tag=RSPAN, vlan_mode="dot1q-tunnel", cvlans=(10,)),
}
"""Ports that carry the VLAN, or not, by a short name."""

OTHER_VLAN = CaseMirror(dst="c", output_vlan=10, select_vlan=(20,))
INTO_TWO = [CaseMirror(src="a", output_vlan=RSPAN), CaseMirror(src="a", dst="b", output_vlan=98)]
TO_VLAN = [CaseMirror(src="a", output_vlan=RSPAN)]

CASES = [
    *(
        Case(
            f"source_{name}",
            ports("", a=port, **CARRIERS),
            left("a second one", *TO_VLAN) if name == "tunnel" else TO_VLAN,
            [some_tags("a"), ("a", flood("a")), some_tags("trunk")],
            silent=name == "access_in_it",
            all_hooks=name == "access",
            in_vm=name == "access",
        )
        for name, port in {
            "trunk": CasePort(),
            "access": CasePort(tag=10),
            "access_in_it": CasePort(tag=RSPAN),
            "native_untagged": CasePort(tag=10, vlan_mode="native-untagged"),
            "native_in_it": CasePort(tag=RSPAN, vlan_mode="native-untagged"),
            "tunnel": CasePort(tag=10, vlan_mode="dot1q-tunnel"),
        }.items()
    ),
    Case(
        "destination",
        ports("a", b=CasePort(tag=10), r=CasePort(tag=RSPAN), t=CasePort(trunks=(RSPAN,))),
        [CaseMirror(dst="b", output_vlan=RSPAN)],
        [some_tags("a"), ("a", flood("a", [10]))],
        all_hooks=True,
    ),
    Case(
        "source_and_destination",
        ports("a b c", r=CasePort(tag=RSPAN)),
        [CaseMirror(src="a", dst="b c", output_vlan=RSPAN)],
        [some_tags("a"), some_tags("b"), ("c", flood("c", [10]))],
    ),
    Case(
        "all_ports",
        ports("a", b=CasePort(tag=10), r=CasePort(tag=RSPAN)),
        [CaseMirror(select_all=True, output_vlan=RSPAN)],
        [some_tags("a"), ("b", flood("b")), ("r", flood("r"))],
    ),
    Case(
        "reserved_addresses",
        ports("a b", r=CasePort(tag=RSPAN)),
        TO_VLAN,
        [reserved("a"), ("a", flood("a"))],
        all_hooks=True,
    ),
    Case(
        "reserved_addresses_forwarded",
        ports("a b", r=CasePort(tag=RSPAN)),
        [CaseMirror(src="a", dst="b", output_vlan=RSPAN)],
        [reserved("a"), ("a", flood("a"))],
        bridge=("other_config:forward-bpdu=true",),
    ),
    Case(
        "packets_in_it",
        ports("a b", r=CasePort(tag=RSPAN)),
        TO_VLAN,
        [
            ("a", flood("a", [RSPAN])),
            ("a", flood("a", [Tag(RSPAN, pcp=4)])),
            ("a", flood("a", [10])),
        ],
    ),
    Case(
        "packets_in_it_only",
        ports("a b", r=CasePort(tag=RSPAN)),
        TO_VLAN,
        [("a", flood("a", [RSPAN])), ("a", flood("a", [Tag(RSPAN, tpid=ETH_8021AD)]))],
        silent=True,
    ),
    *(
        Case(
            f"packets_in_it_and_copies_that_are_not, {name}",
            ports("a b c d"),
            left("", CaseMirror(src=src, dst="b", output_vlan=20), OTHER_VLAN),
            [("a", flood("a", [20])), ("d", flood("d", [20])), ("a", flood("a", [30]))],
        )
        for name, src in {"leaving": "", "arriving": "a"}.items()
    ),
    Case(
        "packets_in_it_that_arrive_all",
        ports("a b c d"),
        [CaseMirror(select_all=True, output_vlan=20), replace(OTHER_VLAN, select_vlan=(30,))],
        [("a", flood("a", [20])), ("d", flood("d", [20])), ("a", flood("a", [30]))],
    ),
    Case(
        "beside_an_output_port",
        ports("a b m", r=CasePort(tag=RSPAN)),
        [CaseMirror(src="a", output="m"), CaseMirror(src="a", dst="b", output_vlan=RSPAN)],
        [some_tags("a"), some_tags("b")],
    ),
    Case(
        "output_port_that_carries_it",
        ports("a b", m=CasePort(tag=RSPAN), r=CasePort(tag=RSPAN)),
        [CaseMirror(src="b", output="m"), CaseMirror(src="a", output_vlan=RSPAN)],
        [some_tags("a"), some_tags("b")],
    ),
    Case(
        "output_port_wins",
        ports("a b m", r=CasePort(tag=RSPAN)),
        [CaseMirror(src="a", output="m", output_vlan=RSPAN)],
        [some_tags("a")],
    ),
    Case(
        "select_vlan",
        ports("a b", c=CasePort(tag=10), r=CasePort(tag=RSPAN)),
        [CaseMirror(src="a c", output_vlan=RSPAN, select_vlan=(10,))],
        [some_tags("a"), ("c", flood("c")), ("a", flood("a", [RSPAN]))],
    ),
    Case(
        "snaplen",
        ports("a b", r=CasePort(tag=RSPAN), i=CasePort("internal")),
        left("is internal", CaseMirror(src="a", output_vlan=RSPAN, snaplen=160)),
        [some_tags("a"), ("a", flood("a"))],
    ),
    Case(
        "two_into_one",
        ports("a b", r=CasePort(tag=RSPAN)),
        [CaseMirror(src="a", output_vlan=RSPAN), CaseMirror(dst="b", output_vlan=RSPAN)],
        [some_tags("a"), some_tags("b")],
    ),
    Case(
        "two_into_two",
        ports("a", b=CasePort(trunks=(0, 10, 20)), r=CasePort(tag=RSPAN), s=CasePort(tag=98)),
        INTO_TWO,
        [some_tags("a"), some_tags("b"), ("a", flood("a", [98]))],
    ),
    Case(
        "two_into_two_by_way_of_each_other",
        ports("a b", r=CasePort(tag=RSPAN), s=CasePort(tag=98)),
        left("", *INTO_TWO),
        [some_tags("a"), some_tags("b"), ("a", flood("a", [98]))],
    ),
    Case(
        "copies_are_selected",
        ports("a b m", r=CasePort(tag=RSPAN)),
        [CaseMirror(src="a", output_vlan=RSPAN), CaseMirror(dst="r", output="m")],
        [some_tags("a"), ("a", flood("a", [RSPAN]))],
    ),
    Case(
        "copies_of_copies",
        ports("a b", r=CasePort(tag=RSPAN), s=CasePort(tag=98)),
        [CaseMirror(src="a", output_vlan=RSPAN), CaseMirror(dst="r", output_vlan=98)],
        [some_tags("a")],
    ),
    Case(
        "internal_and_local_ports",
        ports(
            "a",
            i=CasePort("internal", tag=10),
            j=CasePort("internal", tag=RSPAN),
            k=CasePort("internal"),
        ),
        [CaseMirror(src="i a", output_vlan=RSPAN)],
        [some_tags("a"), some_tags("i")],
        all_hooks=True,
    ),
    Case(
        "taps",
        ports("a", t=CasePort("tap", tag=RSPAN)),
        TO_VLAN,
        [some_tags("a")],
    ),
    Case(
        "bond_carries_it",
        ports(
            "a",
            b=CasePort(
                "bond",
                members=("p", "q"),
                settings=("bond_mode=active-backup", "other_config:bond-primary={p}"),
            ),
        ),
        TO_VLAN,
        [some_tags("a")],
    ),
    Case(
        "flood_vlans",
        ports("a b", r=CasePort(tag=RSPAN)),
        TO_VLAN,
        [some_tags("a"), ("r", flood("r"))],
        bridge=(f"flood_vlans={RSPAN}",),
    ),
    Case(
        "drop_flows",
        ports("a b", r=CasePort(tag=RSPAN)),
        [CaseMirror(src="a", dst="b", output_vlan=RSPAN)],
        [some_tags("a")],
        flows=["actions=drop"],
    ),
    Case(
        "learned",
        ports("b", a=CasePort(tag=10), r=CasePort(tag=RSPAN)),
        [CaseMirror(src="a", dst="b", output_vlan=RSPAN)],
        [("a", talk("a", "b", to_tags=[10])), ("b", talk("b", "a", [10]))],
        learn=[*announce("a"), *announce("b", tags=[10])],
    ),
    Case(
        "identical_frames",
        ports("a b", r=CasePort(tag=RSPAN)),
        [CaseMirror(src="a", dst="b", output_vlan=RSPAN)],
        [("a", [broadcast("a")] * 20)],
    ),
    Case(
        "carriers_with_priority_tags",
        ports(
            "a",
            r=CasePort(tag=RSPAN, priority_tags="always"),
            s=CasePort(tag=RSPAN, priority_tags="if-nonzero"),
            t=CasePort(tag=RSPAN, vlan_mode="native-untagged", priority_tags="if-nonzero"),
        ),
        TO_VLAN,
        [some_tags("a")],
    ),
    Case(
        "protected_ports",
        ports(
            "b",
            a=CasePort(protected=True),
            r=CasePort(tag=RSPAN, protected=True),
            s=CasePort(tag=RSPAN),
        ),
        [CaseMirror(src="a b", output_vlan=RSPAN)],
        [some_tags("a"), some_tags("b")],
    ),
    Case(
        "without_carriers",
        ports("", a=CasePort(trunks=(0, 10)), b=CasePort(tag=10), local=CasePort("local", tag=10)),
        TO_VLAN,
        [some_tags("a"), some_tags("b")],
        silent=True,
    ),
]
