"""`select_vlan`: only the packets of some VLANs."""

from __future__ import annotations

from collections.abc import Sequence

from ovs_ebpf_tap.lab.frames import ETH_8021AD, Tag, Tags
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
    whole_for_hooks,
)

TAGS: Sequence[Tags] = [
    [],
    [0],
    [Tag(0, pcp=6)],
    [1],
    [10],
    [Tag(10, pcp=5)],
    [20],
    [30],
    [4094],
    [10, 20],
]


def tagged(name: str) -> Sent:
    return name, [broadcast(name, tags, str(n)) for n, tags in enumerate(TAGS)]


NATIVE_PORTS = ports(
    "b m",
    a=CasePort(tag=10, vlan_mode="native-untagged"),
    c=CasePort(tag=20, vlan_mode="native-tagged"),
)
NATIVE_MIRROR = CaseMirror(src="a c", dst="a c", output="m", select_vlan=(10,))

A_AND_B = [tagged("a"), tagged("b")]

CASES = [
    *(
        Case(
            f"trunk_{name}",
            ports("a b m"),
            [CaseMirror(src="a", dst="a", output="m", select_vlan=vlans)],
            A_AND_B,
            all_hooks=name == "several",
        )
        for name, vlans in {
            "one": (10,),
            "several": (1, 20, 4094),
            "zero": (0,),
            "zero_and_one": (0, 1),
            "many": tuple(range(2, 4094, 3)),
            "all_but_one": tuple(vlan for vlan in range(4095) if vlan != 10),
        }.items()
    ),
    Case(
        "no_frame_of_it",
        ports("a b m"),
        [CaseMirror(src="a", dst="a", output="m", select_vlan=(77,))],
        A_AND_B,
        silent=True,
    ),
    Case(
        "access_in_it",
        ports("b m", a=CasePort(tag=10)),
        [CaseMirror(src="a", output="m", select_vlan=(10,))],
        A_AND_B,
        all_hooks=True,
    ),
    Case(
        "access_in_another",
        ports("b m", a=CasePort(tag=10)),
        [CaseMirror(src="a", output="m", select_vlan=(20,))],
        A_AND_B,
        silent=True,
    ),
    Case(
        "access_destinations",
        ports("a m", b=CasePort(tag=10), c=CasePort(tag=20), d=CasePort(tag=30)),
        [CaseMirror(dst="b c d", output="m", select_vlan=(10, 30))],
        [tagged("a"), tagged("b"), tagged("c")],
    ),
    Case(
        "native_ports",
        NATIVE_PORTS,
        [NATIVE_MIRROR],
        [tagged("a"), tagged("b"), tagged("c")],
        datapaths=("system",),
    ),
    Case(
        "native_ports_in_batches",
        NATIVE_PORTS,
        left("and through others, not all of which take tags off", NATIVE_MIRROR),
        [tagged("a"), tagged("b"), tagged("c")],
        datapaths=("netdev",),
    ),
    Case(
        "native_ports_and_all_that_arrives",
        NATIVE_PORTS,
        [CaseMirror(select_all=True, output="m", select_vlan=(10,))],
        [tagged("a"), tagged("b"), tagged("c")],
    ),
    Case(
        "tunnel_port",
        ports("b m", a=CasePort(tag=10, vlan_mode="dot1q-tunnel")),
        [CaseMirror(src="a", dst="a", output="m", select_vlan=(10,))],
        A_AND_B,
        in_vm=True,
    ),
    Case(
        "tunnel_port_not_its_cvlan",
        ports("b m", a=CasePort(tag=10, vlan_mode="dot1q-tunnel")),
        [CaseMirror(src="a", output="m", select_vlan=(20,))],
        A_AND_B,
        silent=True,
    ),
    Case(
        "outer_tag_of_two",
        ports("a b m"),
        [CaseMirror(src="a", output="m", select_vlan=(10,))],
        [
            ("a", [broadcast("a", [Tag(10, tpid=ETH_8021AD), 20])]),
            ("a", [broadcast("a", [Tag(20, tpid=ETH_8021AD), 10])]),
            ("a", [broadcast("a", [20, 10])]),
        ],
    ),
    Case(
        "access_output",
        ports("a b", m=CasePort(tag=20)),
        [CaseMirror(src="a", output="m", select_vlan=(10,))],
        A_AND_B,
    ),
    Case(
        "trunk_excludes_it",
        ports("b m", a=CasePort(trunks=(20, 30))),
        [CaseMirror(src="a", output="m", select_vlan=(10, 20))],
        A_AND_B,
    ),
    Case(
        "of_all_ports",
        ports("a b m", c=CasePort(tag=10)),
        [CaseMirror(select_all=True, output="m", select_vlan=(10,))],
        [tagged("a"), tagged("b"), tagged("c")],
    ),
    Case(
        "without_ports",
        ports("a b m"),
        [CaseMirror(output="m", select_vlan=(10,))],
        A_AND_B,
        silent=True,
    ),
    Case(
        "several_mirrors_one_output",
        ports("a b m", c=CasePort(tag=10)),
        [
            CaseMirror(src="a", output="m", select_vlan=(10,)),
            CaseMirror(src="a", dst="b", output="m", select_vlan=(20,)),
            CaseMirror(dst="c", output="m", select_vlan=(10, 30)),
        ],
        [tagged("a"), tagged("b"), tagged("c")],
    ),
    Case(
        "several_mirrors_several_outputs",
        ports("a b m n", c=CasePort(tag=10)),
        [
            CaseMirror(src="a c", output="m", select_vlan=(10,)),
            CaseMirror(src="a", dst="b", output="n", select_vlan=(10, 20)),
            CaseMirror(src="a", output="n"),
        ],
        [tagged("a"), tagged("b"), tagged("c")],
    ),
    Case(
        "with_snaplen",
        ports("a b m"),
        [CaseMirror(src="a", dst="b", output="m", select_vlan=(10,), snaplen=160)],
        A_AND_B,
    ),
    Case(
        "internal_ports",
        ports("b m", i=CasePort("internal", tag=10), j=CasePort("internal")),
        whole_for_hooks(CaseMirror(src="i j", dst="j", output="m", select_vlan=(10,))),
        [tagged("i"), tagged("j"), tagged("b")],
    ),
    Case(
        "changed_on_the_way",
        ports("a b m"),
        [CaseMirror(src="a", dst="b", output="m", select_vlan=(20,))],
        [tagged("a")],
        modifies=True,
        flows=[
            "in_port={a},dl_vlan=10,actions=mod_vlan_vid:20,output:{b}",
            "priority=0,actions=NORMAL",
        ],
    ),
    Case(
        "learned",
        ports("a b m", c=CasePort(tag=10)),
        [CaseMirror(src="c", dst="b", output="m", select_vlan=(10,))],
        [("c", talk("c", "b", to_tags=[10])), ("b", talk("b", "c", [10])), ("a", flood("a", [10]))],
        learn=[*announce("b", tags=[10]), *announce("c")],
    ),
]
