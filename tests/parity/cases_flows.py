"""Flow tables: explicit outputs, drops, rewritten headers, packets sent back."""

from __future__ import annotations

from ovs_ebpf_tap.lab.frames import Address, udp_frame, with_tags
from parity.case import (
    GROUP,
    Case,
    CaseMirror,
    CasePort,
    Sent,
    broadcast,
    flood,
    left,
    ports,
    station,
    talk,
)

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
    "move": "move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[]",
    "same_value": "mod_dl_dst:01:00:5e:00:00:09",
    "and_back": "mod_dl_dst:02:00:00:00:00:99,mod_dl_dst:01:00:5e:00:00:09",
}
"""Actions that change a packet's headers, by a short name."""

METADATA = {
    "reg": "load:1->NXM_NX_REG0[]",
    "xxreg": "set_field:1->xxreg3",
    "metadata": "load:1->OXM_OF_METADATA[]",
    "tun_id": "set_tunnel:5",
    "tun_dst": "load:0x0a010101->NXM_NX_TUN_IPV4_DST[]",
    "pkt_mark": "load:1->NXM_NX_PKT_MARK[]",
    "queue": "set_queue:1",
    "ct_mark": "ct(commit,exec(load:1->NXM_NX_CT_MARK[]))",
}
"""Actions that leave the packet itself as it is."""

GROUPS = {
    "all": "type=all,bucket=output:{b},bucket=output:{c}",
    "all_with_rewrites": (
        "type=all,bucket=mod_dl_dst:02:00:00:00:00:97,output:{b},"
        "bucket=mod_dl_dst:02:00:00:00:00:98,output:{c}"
    ),
    "select": "type=select,bucket=output:{b},bucket=output:{c}",
    "indirect": "type=indirect,bucket=output:{b}",
}
"""Groups with a bucket or two, by a short name."""

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
            [mirror],
            [*BOTH_WAYS, *TAGGED],
            flows=rewrite(actions),
            modifies=True,
            all_hooks=(name, selection) in (("dl_dst", "destination"), ("ttl", "both")),
        )
        for name, actions in REWRITES.items()
        for selection, mirror in SELECTIONS.items()
        # Hooks take two forms that differ in the tag's priority for one.
        if (name, selection) != ("vlan_pcp", "both")
    ),
    *(
        Case(
            f"set_{name}",
            ports("a b m"),
            [SELECTIONS["both"]],
            [*BOTH_WAYS, *TAGGED],
            flows=rewrite(actions),
            modifies=True,
        )
        for name, actions in METADATA.items()
    ),
    Case(
        "rewrite_after_output",
        ports("a b c m"),
        [CaseMirror(src="a", dst="b c", output="m")],
        BOTH_WAYS,
        modifies=True,
        flows=[
            "in_port={a},ip,actions=output:{b},mod_dl_dst:02:00:00:00:00:99,output:{c}",
            "priority=0,actions=NORMAL",
        ],
    ),
    Case(
        "rewrite_different_destinations",
        ports("a b c m"),
        [CaseMirror(dst="b c", output="m")],
        BOTH_WAYS,
        modifies=True,
        flows=[
            "in_port={a},ip,actions=mod_dl_dst:02:00:00:00:00:97,output:{b},"
            "mod_dl_dst:02:00:00:00:00:99,output:{c}",
            "priority=0,actions=NORMAL",
        ],
    ),
    Case(
        "rewrite_and_restore",
        ports("a b c m"),
        [CaseMirror(src="a", dst="b c", output="m")],
        [("a", [udp_frame(station("a"), GROUP)])],
        flows=[
            "in_port={a},ip,actions=mod_nw_tos:16,output:{b},mod_nw_tos:0,output:{c}",
            "priority=0,actions=NORMAL",
        ],
        modifies=True,
    ),
    Case(
        "rewrite_in_a_clone",
        ports("a b c m"),
        [CaseMirror(src="a", dst="b c", output="m")],
        BOTH_WAYS,
        flows=[
            "in_port={a},ip,actions=clone(mod_dl_dst:02:00:00:00:00:99,output:{b}),output:{c}",
            "priority=0,actions=NORMAL",
        ],
        modifies=True,
    ),
    Case(
        "rewrite_and_flood",
        ports("a b c m n"),
        [
            CaseMirror(src="a", dst="b c", output="m"),
            CaseMirror(src="b", output="n"),
            CaseMirror(dst="b", output="n"),
        ],
        BOTH_WAYS,
        flows=["priority=9,ip,actions=dec_ttl,NORMAL", "priority=0,actions=NORMAL"],
        modifies=True,
    ),
    Case(
        "rewrite_among_access_ports",
        ports("b m", a=CasePort(tag=10), c=CasePort(tag=10)),
        [CaseMirror(src="a b", dst="c", output="m")],
        [*BOTH_WAYS, ("b", flood("b", [10])), ("c", flood("c"))],
        flows=["priority=9,ip,actions=dec_ttl,NORMAL", "priority=0,actions=NORMAL"],
        modifies=True,
    ),
    Case(
        "rewrite_the_vlan",
        ports("a m", b=CasePort(tag=10), c=CasePort(tag=20)),
        [CaseMirror(src="a", dst="b c", output="m")],
        [*BOTH_WAYS, *TAGGED[:2], ("c", flood("c"))],
        flows=[
            "priority=9,dl_vlan=10,ip,actions=mod_vlan_vid:20,NORMAL",
            "priority=0,actions=NORMAL",
        ],
        modifies=True,
    ),
    Case(
        "rewrite_by_a_pipeline",
        ports("a b m"),
        [CaseMirror(src="a", dst="a b", output="m")],
        [*BOTH_WAYS, ("a", talk("a", "b")), ("b", talk("b", "a"))],
        flows=[
            "table=0,in_port={a},actions=load:{b}->NXM_NX_REG15[],resubmit(,1)",
            "table=0,in_port={b},actions=load:{a}->NXM_NX_REG15[],resubmit(,1)",
            "table=1,ip,actions=mod_dl_src:02:00:00:00:00:97,dec_ttl,resubmit(,2)",
            "table=1,priority=0,actions=resubmit(,2)",
            "table=2,actions=output:NXM_NX_REG15[]",
        ],
        modifies=True,
    ),
    Case(
        "rewrite_and_send_back",
        ports("a b m"),
        [CaseMirror(src="a", dst="a", output="m")],
        BOTH_WAYS,
        flows=["in_port={a},ip,actions=dec_ttl,in_port", "priority=0,actions=NORMAL"],
        modifies=True,
        all_hooks=True,
    ),
    *(
        Case(
            f"conntrack_{name}",
            ports("a b m"),
            [CaseMirror(src="a", dst="b", output="m")],
            [*BOTH_WAYS, ("a", talk("a", "b")), ("b", talk("b", "a"))],
            flows=[
                f"table=0,in_port={{a}},ip,actions={before}ct(commit,table=1{nat})",
                "table=1,ip,actions=ct(table=2,zone=7)",
                "table=2,actions=output:{b}",
                "priority=0,actions=NORMAL",
            ],
            modifies=True,
            all_hooks=name == "source_nat",
        )
        for name, before, nat in (
            ("commit", "", ""),
            ("source_nat", "", ",nat(src=10.9.9.9)"),
            ("destination_nat", "", ",nat(dst=10.8.8.8)"),
            ("after_rewrite", "dec_ttl,", ""),
        )
    ),
    Case(
        "conntrack_load_balancer",
        ports("a b m n"),
        [CaseMirror(src="a", dst="a", output="m"), CaseMirror(src="b", dst="b", output="n")],
        [
            ("a", [udp_frame(station("a"), Address(station("b").mac, "10.8.8.8"))]),
            ("b", [udp_frame(station("b"), station("a"))]),
        ],
        flows=[
            f"table=0,in_port={{a}},ip,actions=ct(commit,table=1,nat(dst={station('b').ip}))",
            "table=0,in_port={b},ip,actions=ct(table=2,nat)",
            "table=1,ip,actions=set_field:5->tun_id,ct(table=3)",
            "table=2,ip,actions=dec_ttl,ct(table=3)",
            "table=3,in_port={a},actions=output:{b}",
            "table=3,in_port={b},actions=output:{a}",
        ],
        modifies=True,
    ),
    *(
        Case(
            f"group_{name}",
            ports("a b c m"),
            [CaseMirror(dst="b c", output="m")],
            [*BOTH_WAYS, ("a", talk("a", "b")), ("a", talk("a", "c"))],
            groups=[f"group_id=1,{group}"],
            flows=["in_port={a},actions=group:1", "priority=0,actions=NORMAL"],
            modifies=True,
        )
        for name, group in GROUPS.items()
    ),
    Case(
        "learned_flows",
        ports("a b m"),
        [CaseMirror(src="b", dst="a", output="m")],
        [("a", talk("a", "b")), ("b", talk("b", "a"))],
        flows=[
            "table=0,in_port={a},actions=learn(table=1,NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[],"
            "output:NXM_OF_IN_PORT[]),output:{b}",
            "table=0,in_port={b},actions=resubmit(,1)",
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
        left("VLAN settings differ", CaseMirror(src="a", dst="b", output="m")),
        [*BOTH_WAYS, *TAGGED],
        flows=["in_port={a},actions=output:{b}", "in_port={b},actions=output:{a}"],
    ),
    Case(
        "output_to_an_access_port",
        ports("a m", b=CasePort(tag=20)),
        [CaseMirror(dst="b", output="m")],
        [*BOTH_WAYS, *TAGGED],
        flows=["in_port={a},actions=output:{b}"],
        all_hooks=True,
    ),
    Case(
        "output_what_is_not_admitted",
        ports("b m", a=CasePort(tag=10), c=CasePort(trunks=(20,))),
        left("VLAN settings differ", CaseMirror(src="a c", dst="c", output="m")),
        [*BOTH_WAYS, *TAGGED, ("c", flood("c")), ("c", flood("c", [20]))],
        flows=["in_port={a},actions=output:{c}", "in_port={c},actions=output:{b}"],
    ),
    Case(
        "output_several_times",
        ports("a b m"),
        left(
            "more than once, which Open vSwitch copies once",
            CaseMirror(src="a", dst="b", output="m"),
            CaseMirror(dst="b", output="m"),
        ),
        BOTH_WAYS,
        flows=["in_port={a},actions=output:{b},output:{b},output:{b}", "priority=0,actions=NORMAL"],
    ),
    Case(
        "output_several_times_destination_only",
        ports("a b m"),
        left("more than once, which Open vSwitch copies once", CaseMirror(dst="b", output="m")),
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
        left(
            "more than once, which Open vSwitch copies once",
            CaseMirror(src="a", dst="a b", output="m"),
        ),
        [("a", [broadcast("a")] * 20), ("b", [broadcast("a")] * 5)],
        flows=["in_port={a},actions=in_port,output:{b},in_port", "priority=0,actions=NORMAL"],
    ),
    Case(
        "vlan_of_the_way",
        ports("a m", b=CasePort(tag=20), n=CasePort(tag=20)),
        [
            *left("VLAN settings differ", CaseMirror(src="a", dst="b", output="m")),
            CaseMirror(dst="b", output="n"),
        ],
        [("a", [with_tags(broadcast("a"), [10])]), *TAGGED, *BOTH_WAYS],
        flows=["in_port={a},dl_vlan=10,actions=strip_vlan,output:{b}", "priority=0,actions=NORMAL"],
    ),
    Case(
        "a_second_tag_is_left_to_an_access_port",
        ports("a m", b=CasePort(tag=20)),
        [CaseMirror(dst="b", output="m")],
        [("a", flood("a", [10, 20])), ("a", flood("a", [10])), *BOTH_WAYS],
        flows=["in_port={a},dl_vlan=10,actions=strip_vlan,output:{b}"],
    ),
    Case(
        "between_ports_of_one_vlan",
        ports("m", a=CasePort(tag=20), b=CasePort(tag=20)),
        [CaseMirror(src="a b", dst="a b", output="m")],
        [*BOTH_WAYS, ("a", talk("a", "b"))],
        flows=["in_port={a},ip,actions=output:{b}", "priority=0,actions=NORMAL"],
    ),
    Case(
        "networks_by_registers",
        ports("m", a=CasePort(tag=10), b=CasePort(tag=10), c=CasePort(tag=20), d=CasePort(tag=20)),
        [CaseMirror(src="a b c d", dst="a b c d", output="m")],
        [*BOTH_WAYS, ("a", talk("a", "b")), ("c", flood("c")), ("c", flood("d"))],
        flows=[
            "table=0,in_port={a},actions=load:10->NXM_NX_REG6[],resubmit(,73)",
            "table=0,in_port={b},actions=load:10->NXM_NX_REG6[],resubmit(,73)",
            "table=0,in_port={c},actions=load:20->NXM_NX_REG6[],resubmit(,73)",
            "table=0,in_port={d},actions=load:20->NXM_NX_REG6[],resubmit(,73)",
            "table=73,priority=9,reg6=10,ip,actions=load:1->NXM_NX_REG5[],resubmit(,82)",
            "table=73,priority=9,reg6=20,ip,actions=load:2->NXM_NX_REG5[],resubmit(,82)",
            "table=73,priority=0,actions=NORMAL",
            "table=82,reg5=1,in_port={a},actions=output:{b}",
            "table=82,reg5=1,in_port={b},actions=output:{a}",
            "table=82,reg5=2,in_port={c},actions=output:{d}",
            "table=82,reg5=2,in_port={d},actions=output:{c}",
        ],
        all_hooks=True,
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
        left("VLAN settings differ", CaseMirror(src="a", dst="b c", output="m")),
        BOTH_WAYS,
        flows=["actions=ALL"],
    ),
]
