"""Flow tables: explicit outputs, drops, rewritten headers, packets sent back."""

from __future__ import annotations

from ovs_ebpf_tap.lab.frames import with_tags
from parity.case import Case, CaseMirror, CasePort, Sent, broadcast, flood, left, ports

BOTH_WAYS: list[Sent] = [("a", flood("a")), ("b", flood("b"))]
TAGGED: list[Sent] = [("a", flood("a", [10])), ("a", flood("a", [20])), ("b", flood("b", [10]))]

REWRITES = {
    "dl_dst": "mod_dl_dst:02:00:00:00:00:99",
    "dl_src": "mod_dl_src:02:00:00:00:00:98",
    "ttl": "dec_ttl",
    "nw_dst": "mod_nw_dst:10.9.9.9",
    "nw_tos": "mod_nw_tos:16",
    "tp_dst": "mod_tp_dst:99",
    "vlan": "mod_vlan_vid:20",
    "vlan_pcp": "mod_vlan_pcp:5",
    "strip_vlan": "strip_vlan",
    "push_vlan": "push_vlan:0x8100,set_field:4126->vlan_vid",
}
"""Actions that change a packet's headers, by a short name."""

SELECTIONS = {
    "source": CaseMirror(src="a", output="m"),
    "destination": CaseMirror(dst="b", output="m"),
    "both": CaseMirror(src="a", dst="b", output="m"),
}


def rewrite(actions: str) -> list[str]:
    """IPv4 goes from a to b with its headers changed, all else as usual."""
    return [
        f"priority=9,in_port={{a}},ip,actions={actions},output:{{b}}",
        "priority=0,actions=NORMAL",
    ]


CASES = [
    *(
        Case(
            f"rewrite_{name}_{selection}",
            ports("a b m"),
            [mirror] if selection == "source" else left("flows modify packets", mirror),
            [*BOTH_WAYS, *TAGGED],
            flows=rewrite(actions),
            all_hooks=(name, selection) == ("dl_dst", "destination"),
        )
        for name, actions in REWRITES.items()
        for selection, mirror in SELECTIONS.items()
    ),
    Case(
        "rewrite_after_output",
        ports("a b c m"),
        left("flows modify packets", CaseMirror(src="a", dst="b c", output="m")),
        BOTH_WAYS,
        flows=[
            "in_port={a},ip,actions=output:{b},mod_dl_dst:02:00:00:00:00:99,output:{c}",
            "priority=0,actions=NORMAL",
        ],
    ),
    Case(
        "rewrite_different_destinations",
        ports("a b c m"),
        left("flows modify packets", CaseMirror(dst="b c", output="m")),
        BOTH_WAYS,
        flows=[
            "in_port={a},ip,actions=mod_dl_dst:02:00:00:00:00:97,output:{b},"
            "mod_dl_dst:02:00:00:00:00:99,output:{c}",
            "priority=0,actions=NORMAL",
        ],
    ),
    *(
        Case(
            f"drop_{name}",
            ports("a b m"),
            [mirror],
            [*BOTH_WAYS, *TAGGED],
            flows=["actions=drop"],
            silent=name == "destination",
            all_hooks=name == "both",
        )
        for name, mirror in SELECTIONS.items()
    ),
    Case(
        "drop_in_access_vlan",
        ports("b", a=CasePort(tag=10), m=CasePort()),
        [CaseMirror(src="a", output="m")],
        [*BOTH_WAYS, *TAGGED],
        flows=["actions=drop"],
    ),
    Case(
        "output_between_access_ports",
        ports("m", a=CasePort(tag=10), b=CasePort(tag=20)),
        left("VLAN settings", CaseMirror(src="a", dst="b", output="m")),
        [*BOTH_WAYS, *TAGGED],
        flows=["in_port={a},actions=output:{b}", "in_port={b},actions=output:{a}"],
    ),
    Case(
        "output_to_an_access_port",
        ports("a m", b=CasePort(tag=20)),
        left("VLAN settings", CaseMirror(dst="b", output="m")),
        [*BOTH_WAYS, *TAGGED],
        flows=["in_port={a},actions=output:{b}"],
        all_hooks=True,
    ),
    Case(
        "output_what_is_not_admitted",
        ports("b m", a=CasePort(tag=10), c=CasePort(trunks=(20,))),
        left("VLAN settings", CaseMirror(src="a c", dst="c", output="m")),
        [*BOTH_WAYS, *TAGGED, ("c", flood("c")), ("c", flood("c", [20]))],
        flows=["in_port={a},actions=output:{c}", "in_port={c},actions=output:{b}"],
    ),
    Case(
        "output_several_times",
        ports("a b m"),
        left(
            "more than once",
            CaseMirror(src="a", dst="b", output="m"),
            CaseMirror(dst="b", output="m"),
        ),
        BOTH_WAYS,
        flows=["in_port={a},actions=output:{b},output:{b},output:{b}", "priority=0,actions=NORMAL"],
    ),
    Case(
        "output_several_times_destination_only",
        ports("a b m"),
        left("more than once", CaseMirror(dst="b", output="m")),
        BOTH_WAYS,
        flows=["in_port={a},actions=output:{b},output:{b}", "priority=0,actions=NORMAL"],
    ),
    Case(
        "sent_back",
        ports("a b m"),
        [CaseMirror(src="a", dst="a", output="m")],
        BOTH_WAYS,
        flows=["in_port={a},actions=in_port,NORMAL", "priority=0,actions=NORMAL"],
        all_hooks=True,
    ),
    Case(
        "sent_back_destination_only",
        ports("a b m"),
        [CaseMirror(dst="a", output="m")],
        BOTH_WAYS,
        flows=["in_port={a},actions=in_port"],
    ),
    Case(
        "sent_back_twice_as_often",
        ports("a b m"),
        left("more than once", CaseMirror(src="a", dst="a b", output="m")),
        [("a", [broadcast("a")] * 20), ("b", [broadcast("a")] * 5)],
        flows=["in_port={a},actions=in_port,output:{b},in_port", "priority=0,actions=NORMAL"],
    ),
    Case(
        "vlan_of_the_way",
        ports("a m", b=CasePort(tag=20), n=CasePort(tag=20)),
        left(
            "VLAN settings",
            CaseMirror(src="a", dst="b", output="m"),
            CaseMirror(dst="b", output="n"),
        ),
        [("a", [with_tags(broadcast("a"), [10])]), *BOTH_WAYS],
        flows=["in_port={a},dl_vlan=10,actions=strip_vlan,output:{b}", "priority=0,actions=NORMAL"],
    ),
    Case(
        "drop_of_one_port",
        ports("a b m"),
        [CaseMirror(src="a b", output="m")],
        [*BOTH_WAYS, *TAGGED],
        flows=["in_port={a},actions=drop", "priority=0,actions=NORMAL"],
    ),
    Case(
        "resubmit",
        ports("a b c m"),
        [CaseMirror(src="a", dst="b c", output="m")],
        BOTH_WAYS,
        flows=[
            "table=0,in_port={a},actions=resubmit(,1),resubmit(,2)",
            "table=0,priority=0,actions=NORMAL",
            "table=1,actions=output:{b}",
            "table=2,actions=output:{c}",
        ],
    ),
    Case(
        "output_to_the_output",
        ports("a b m"),
        [CaseMirror(src="a", output="m")],
        BOTH_WAYS,
        flows=["in_port={a},actions=output:{m},output:{b}", "priority=0,actions=NORMAL"],
    ),
    Case(
        "flood_action",
        ports("a b c m"),
        [CaseMirror(src="a", dst="b c", output="m")],
        BOTH_WAYS,
        flows=["actions=FLOOD"],
    ),
    Case(
        "all_action",
        ports("m", a=CasePort(tag=10), b=CasePort(tag=20), c=CasePort()),
        left("VLAN settings", CaseMirror(src="a", dst="b c", output="m")),
        BOTH_WAYS,
        flows=["actions=ALL"],
    ),
]
