"""What is read out of the flows and groups that Open vSwitch tells of, in each version."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import reduce

import pytest

from ovs_ebpf_tap.lab.switch import Switch
from ovs_ebpf_tap.lab.waiting import wait_for
from ovs_ebpf_tap.model.flow import (
    ALL_PORTS,
    ANY_PORT,
    ETH_DST,
    ETH_GROUP,
    ETH_TYPE,
    FLOOD,
    ICMP_CODE,
    ICMP_TYPE,
    IN_PORT,
    IN_PORT_PORT,
    IP_PROTO,
    LOCAL,
    METADATA,
    METADATA_MASK,
    NORMAL,
    PKT_MARK,
    SECOND_VLAN,
    TUN_ID,
    VLAN,
    VLAN_PRESENT,
    Action,
    Actions,
    Bits,
    Clone,
    Flow,
    FlowName,
    Forget,
    Group,
    Known,
    Load,
    Modify,
    Move,
    Output,
    OutputField,
    Pipeline,
    Resubmit,
    ToGroup,
    Write,
    pushed,
    register,
)
from ovs_ebpf_tap.observe.flow_monitor import FlowMonitor
from ovs_ebpf_tap.observe.openflow_channel import management_socket

M = Modify()
MAY = Modify(always=False)
ANY = Output(ANY_PORT)
REG0, REG1 = register(0), register(1)
UNTAGGED = Known.of(VLAN, 0)


def load(bits: Bits, value: int, mask: int | None = None) -> Load:
    return Load(Known.of(bits, value, mask))


def tagged(vid: int) -> Load:
    return load(VLAN, VLAN_PRESENT | vid)


def to(*ports: int) -> tuple[Output, ...]:
    return tuple(Output(port) for port in ports)


def part(bits: Bits, start: int, width: int) -> Bits:
    return Bits(bits.offset + start, width)


def both(*known: Known) -> Known:
    merged = Known()
    for each in known:
        merged = merged.both(each)
    return merged


MATCHES = [
    ("reg0=5,reg15=0x10/0xf0", both(Known.of(REG0, 5), Known.of(register(15), 0x10, 0xF0))),
    ("xreg1=0x100000002", both(Known.of(register(2), 1), Known.of(register(3), 2))),
    ("xxreg0=0x3/0xff", Known.of(register(3), 3, 0xFF)),
    ("metadata=0x7/0xf", Known.of(METADATA, 7, 0xF)),
    ("tun_id=0x2a", Known.of(TUN_ID, 42)),
    ("tun_id=0x2a/0xff", Known.of(TUN_ID, 42, 0xFF)),
    ("pkt_mark=0x1/0x3", Known.of(PKT_MARK, 1, 3)),
    ("in_port=3", Known.of(IN_PORT, 3)),
    ("in_port=LOCAL", Known.of(IN_PORT, LOCAL)),
    ("dl_vlan=7", Known.of(VLAN, VLAN_PRESENT | 7)),
    ("vlan_tci=0", UNTAGGED),
    ("vlan_tci=0x1000/0x1000", Known.of(VLAN, VLAN_PRESENT, VLAN_PRESENT)),
    ("vlan_tci=0x3007/0xf00f", Known.of(VLAN, VLAN_PRESENT | 7, 0x100F)),
    ("dl_vlan_pcp=3,dl_vlan=9", Known.of(VLAN, VLAN_PRESENT | 9)),
    (
        "ct_state=+trk,ct_mark=1,tcp,nw_src=10.0.0.0/8,tun_src=1.1.1.1,nw_frag=no,tp_dst=8,reg0=1",
        Known.of(REG0, 1),
    ),
    ("tcp,tcp_flags=+syn,tun_flags=+oam,reg1=2", Known.of(REG1, 2)),
    ("icmp6,icmp_type=135,nd_target=fe80::1,ipv6_src=fe80::/16,metadata=5", Known.of(METADATA, 5)),
]

MAY = Modify(always=False)
PUSHED = Forget(SECOND_VLAN.mask)
POPPED = Move(SECOND_VLAN, VLAN), Load(Known.of(SECOND_VLAN, 0))
KIND = IP_PROTO.mask | ICMP_TYPE.mask | ICMP_CODE.mask


ACTIONS: Sequence[tuple[str, tuple[Action, ...]]] = [
    ("1,2", to(1, 2)),
    ("normal,flood,all,local,in_port", to(NORMAL, FLOOD, ALL_PORTS, LOCAL, IN_PORT_PORT)),
    ("controller,1", to(1)),
    ("controller(max_len=100,id=7),note:01.02,exit", ()),
    ("output(port=1,max_len=100),2", (Clone((MAY, Output(1))), Output(2))),
    ("output:NXM_NX_REG0[]", (OutputField(REG0),)),
    ("output:NXM_NX_REG1[4..19]", (OutputField(part(REG1, 4, 16)),)),
    ("output:NXM_OF_IN_PORT[]", (OutputField(part(IN_PORT, 0, 16)),)),
    ("output:NXM_NX_CT_MARK[]", (ANY, ANY)),
    ("output:NXM_NX_CT_MARK[0..14]", (ANY,)),
    ("enqueue:1:2", to(1)),
    ("set_queue:1,pop_queue,1", to(1)),
    ("bundle(eth_src,0,active_backup,ofport,members:1,2)", (ANY,)),
    ("bundle(eth_src,0,active_backup,ofport,members:1,table)", (ANY, ANY)),
    (
        "bundle_load(eth_src,0,hrw,ofport,NXM_NX_REG0[],members:1,2),1",
        (Forget(REG0.mask), Output(1)),
    ),
    ("multipath(eth_src,50,modulo_n,1,0,NXM_NX_REG0[0..3])", (Forget(part(REG0, 0, 4).mask),)),
    ("check_pkt_larger(1500)->NXM_NX_REG0[3]", (Forget(part(REG0, 3, 1).mask),)),
    ("load:5->NXM_NX_REG0[]", (load(REG0, 5),)),
    ("load:5->NXM_NX_REG0[4..7]", (load(REG0, 0x50, 0xF0),)),
    (
        "load:5->NXM_NX_REG0[],load:6->NXM_NX_REG1[]",
        (Load(both(Known.of(REG0, 5), Known.of(REG1, 6))),),
    ),
    ("set_field:0x10/0xf0->reg1", (load(REG1, 0x10, 0xF0),)),
    ("set_field:0x100000002->xreg0", (Load(both(Known.of(REG0, 1), Known.of(REG1, 2))),)),
    ("set_field:9->xxreg3", (load(register(3, words=4), 9),)),
    ("set_field:1->metadata,write_metadata:2/3", (load(METADATA, 2),)),
    ("write_metadata:5", (load(METADATA, 5),)),
    ("set_tunnel:5", (load(TUN_ID, 5),)),
    ("set_tunnel64:0x100000005,1", (load(TUN_ID, 0x100000005), Output(1))),
    ("set_field:1->pkt_mark", (load(PKT_MARK, 1),)),
    ("load:0->NXM_OF_IN_PORT[],1", (load(IN_PORT, 0), Output(1))),
    ("load:0xfffe->NXM_OF_IN_PORT[]", (load(IN_PORT, LOCAL),)),
    ("load:1->NXM_OF_IN_PORT[0..7]", (Forget(IN_PORT.mask),)),
    ("set_field:10.0.0.1->tun_dst,set_field:1->tun_gbp_id,1", to(1)),
    ("mod_dl_src:02:00:00:00:00:01,mod_dl_dst:02:00:00:00:00:02,1", (M, *to(1))),
    ("mod_dl_src:02:00:00:00:00:01,load:1->NXM_NX_REG0[],1", (load(REG0, 1), M, *to(1))),
    ("1,mod_dl_src:02:00:00:00:00:01,2", (Output(1), M, Output(2))),
    ("mod_vlan_vid:7,1", (PUSHED, tagged(7), M, Output(1))),
    ("push_vlan:0x8100,1", (PUSHED, tagged(0), M, Output(1))),
    ("push_vlan:0x88a8,set_field:4103->vlan_vid,1", (PUSHED, tagged(7), M, Output(1))),
    ("load:0x1005->NXM_OF_VLAN_TCI[]", (tagged(5), M)),
    ("load:3->NXM_OF_VLAN_TCI[13..15]", (M,)),
    ("move:NXM_NX_REG0[]->NXM_NX_REG1[]", (Move(REG0, REG1),)),
    (
        "move:NXM_NX_REG0[0..11]->NXM_OF_VLAN_TCI[0..11]",
        (Move(part(REG0, 0, 12), part(VLAN, 0, 12)), MAY),
    ),
    (
        "move:NXM_OF_VLAN_TCI[0..11]->NXM_NX_REG0[0..11]",
        (Move(part(VLAN, 0, 12), part(REG0, 0, 12)),),
    ),
    ("move:NXM_OF_VLAN_TCI[]->NXM_NX_REG0[0..15]", (Forget(part(REG0, 0, 16).mask),)),
    ("move:NXM_OF_IN_PORT[]->NXM_NX_REG0[0..15]", (Move(part(IN_PORT, 0, 16), part(REG0, 0, 16)),)),
    ("move:NXM_NX_REG0[0..15]->NXM_OF_IN_PORT[]", (Forget(IN_PORT.mask),)),
    ("move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[]", (MAY,)),
    (
        "move:NXM_OF_ETH_SRC[]->NXM_NX_XXREG0[0..47]",
        (Forget(part(register(0, words=4), 0, 48).mask),),
    ),
    ("move:NXM_NX_XXREG0[0..47]->NXM_OF_ETH_DST[]", (MAY,)),
    ("move:NXM_NX_REG0[]->NXM_NX_TUN_IPV4_DST[],1", to(1)),
    ("move:NXM_NX_TUN_ID[0..31]->NXM_NX_REG1[]", (Move(part(TUN_ID, 0, 32), REG1),)),
    (
        "push:NXM_NX_REG0[0..7],pop:NXM_NX_REG1[0..7]",
        (Move(part(REG0, 0, 8), pushed(0, 8)), Move(pushed(0, 8), part(REG1, 0, 8))),
    ),
    (
        "push:NXM_NX_REG0[],push:NXM_NX_REG1[],pop:NXM_NX_REG0[],pop:NXM_NX_REG1[]",
        (
            Move(REG0, pushed(0, 32)),
            Move(REG1, pushed(1, 32)),
            Move(pushed(1, 32), REG0),
            Move(pushed(0, 32), REG1),
        ),
    ),
    (
        "push:NXM_NX_REG0[],resubmit(,250),pop:NXM_NX_REG1[],pop:NXM_NX_REG0[]",
        (Move(REG0, pushed(0, 32)), Resubmit(250), Forget(REG1.mask | REG0.mask)),
    ),
    ("pop:NXM_OF_VLAN_TCI[]", (Forget(VLAN.mask), MAY)),
    ("resubmit(,250)", (Resubmit(250),)),
    ("resubmit(3,250)", (Resubmit(250, other_port=True),)),
    ("resubmit(LOCAL,250)", (Resubmit(250, other_port=True),)),
    ("goto_table:250", (Resubmit(250),)),
    ("1,write_metadata:5,goto_table:250", (Output(1), load(METADATA, 5), Resubmit(250))),
    ("clone(mod_dl_src:00:00:00:00:00:01,output:1),2", (Clone((M, Output(1))), Output(2))),
    ("write_actions(output:1)", (Write(Output(1), changes=False),)),
    (
        "write_actions(output:1,push_vlan:0x8100,pop_vlan,output:2)",
        (Write(Output(2), changes=True),),
    ),
    ("2,write_actions(push_vlan:0x8100,output:1)", (Output(2), Write(Output(1), changes=True))),
    ("write_actions(group:7,output:1)", (Write(ToGroup(7), changes=False),)),
    ("write_actions(mod_dl_src:00:00:00:00:00:01)", (Clone((M,)),)),
    ("1,clear_actions", to(1)),
    ("group:7", (ToGroup(7),)),
    ("sample(probability=1,collector_set_id=1),1", to(1)),
]

TCP_ACTIONS: Sequence[tuple[str, tuple[Action, ...]]] = [
    ("dec_ttl,1", (M, *to(1))),
    ("dec_ttl(1,2),mod_nw_src:10.0.0.1,mod_nw_tos:4,mod_tp_dst:5,1", (M, *to(1))),
    ("ct(table=250,zone=1)", (Clone((Resubmit(250),)),)),
    ("ct(commit,nat(src=1.1.1.1)),1", (MAY, Output(1))),
    ("ct(commit,zone=NXM_NX_REG0[0..15],exec(load:1->NXM_NX_CT_MARK[])),ct_clear", ()),
    (
        "ct(commit,table=250,nat,exec(move:NXM_NX_REG0[]->NXM_NX_CT_MARK[]))",
        (
            MAY,
            Clone((Resubmit(250),)),
        ),
    ),
    ("resubmit(,250,ct)", (Forget(KIND), Resubmit(250))),
    ("fin_timeout(idle_timeout=1),1", to(1)),
    ("push_mpls:0x8847,1", (Forget(VLAN.mask), M, Output(1))),
]

TAGGED = Known.of(VLAN, VLAN_PRESENT, VLAN_PRESENT)
TAGGED_ACTIONS: Sequence[tuple[str, tuple[Action, ...]]] = [
    ("strip_vlan,1", (*POPPED, MAY, Output(1))),
    ("strip_vlan,push_vlan:0x8100,mod_vlan_vid:7,1", (*POPPED, PUSHED, tagged(7), M, Output(1))),
]

LEARNED: Sequence[tuple[str, tuple[Action, ...], list[Flow]]] = [
    (
        "learn(table=245,NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[],reg0=5,output:NXM_OF_IN_PORT[]),1",
        to(1),
        [Flow(245, Known.of(REG0, 5), (ANY,))],
    ),
    (
        "learn(table=246,priority=7,in_port=3,NXM_OF_VLAN_TCI[0..11],"
        "load:NXM_NX_REG1[0..7]->NXM_NX_REG0[8..15],load:2->NXM_NX_REG1[],"
        "load:0->NXM_OF_VLAN_TCI[],output:NXM_NX_REG0[])",
        (),
        [
            Flow(
                246,
                Known.of(IN_PORT, 3),
                (
                    Forget(part(REG0, 8, 8).mask),
                    Load(both(Known.of(REG1, 2), Known.of(VLAN, 0))),
                    M,
                    ANY,
                ),
            )
        ],
    ),
    ("learn(table=247,reg0=5,load:1->NXM_NX_REG0[]),1", to(1), []),
    (
        "learn(table=248,limit=3,result_dst=NXM_NX_REG1[2],reg0=6,output:NXM_OF_IN_PORT[])",
        (Forget(part(REG1, 2, 1).mask),),
        [Flow(248, Known.of(REG0, 6), (ANY,))],
    ),
    (
        "clone(learn(table=244,reg0=7,output:NXM_OF_IN_PORT[]),2)",
        (Clone(to(2)),),
        [Flow(244, Known.of(REG0, 7), (ANY,))],
    ),
]

GROUPS = [
    (
        7,
        "type=select,bucket=weight:10,actions=output:1,mod_dl_src:00:00:00:00:00:01,bucket=group:8",
    ),
    (8, "type=all,bucket=set_field:3->reg0,resubmit(,250),bucket=ct(commit,table=249,nat)"),
    (9, "type=indirect,bucket=resubmit(3,)"),
    (10, "type=all"),
]
PARSED_GROUPS = {
    7: Group(((M, Output(1)), (ToGroup(8),)), every=False),
    8: Group(((load(REG0, 3), Resubmit(250)), (MAY, Clone((Resubmit(249),))))),
    9: Group(((ANY, ANY),), every=False),
    10: Group(()),
}


def pipeline_of(switch: Switch) -> tuple[FlowMonitor, Pipeline]:
    monitor = FlowMonitor(management_socket(switch.rundir, "br0"))

    def seen() -> bool:
        monitor.run(time.monotonic() + 1)
        return monitor.version is not None

    wait_for(seen, what="all flows")
    return monitor, monitor.pipeline


def _plain(flow: Flow) -> Flow:
    """What it does, whatever the kind of packet and beside whichever flows."""
    return Flow(flow.table, flow.match.only(METADATA_MASK), flow.actions)


def known(*fields: tuple[Bits, int]) -> Known:
    return reduce(Known.both, (Known.of(bits, value) for bits, value in fields))


KINDS = {
    "icmp,icmp_type=3,icmp_code=4,": known(
        (ETH_TYPE, 0x800), (IP_PROTO, 1), (ICMP_TYPE, 3), (ICMP_CODE, 4)
    ),
    "icmp6,icmp_type=2,icmp_code=0,": known(
        (ETH_TYPE, 0x86DD), (IP_PROTO, 58), (ICMP_TYPE, 2), (ICMP_CODE, 0)
    ),
    "reg5=7,dl_dst=02:00:00:00:00:05,": known(
        (register(5), 7), (ETH_DST, 0x020000000005), (ETH_GROUP, 0)
    ),
    "": Known(),
}
MATCH_ACTIONS: dict[str, Actions] = {
    "conjunction(9,1/2)": (),
    "controller(pause),1": (Forget(METADATA_MASK), MAY, Output(1)),
    "output:TABLE": (Resubmit(0),),
    "drop": (),
    "resubmit(,9)": (Resubmit(9),),
    "1": to(1),
}
PARTLY = {
    "tcp,tp_dst=80,": known((ETH_TYPE, 0x800), (IP_PROTO, 6)),
    "dl_dst=01:00:00:00:00:00/01:00:00:00:00:00,": known((ETH_GROUP, 1)),
    "dl_src=02:00:00:00:00:05,": Known(),
}


@pytest.mark.parametrize("protocol", ["OpenFlow13", "OpenFlow15"])
def test_what_flows_match(switch: Switch, protocol: str) -> None:
    """Kinds of packets, and whether that is all; flows that send on leave out the station."""
    switch.set_columns("Bridge", "br0", protocols=protocol)
    expected = set()
    switch.ofctl("-O", protocol, "del-flows", "br0")
    for exact, cases in ((True, KINDS), (False, PARTLY)):
        for text, match in cases.items():
            for table, actions in enumerate(MATCH_ACTIONS):
                rule = f"table={table},priority=7,{text}actions={actions}"
                switch.ofctl("-O", protocol, "add-flow", "br0", rule)
                sent = actions.endswith("1")
                whole = exact and not (sent and match.mask & ETH_DST.mask)
                whole = whole and not actions.startswith("conjunction")
                told = match.only(~ETH_DST.mask) if sent else match
                does = MATCH_ACTIONS[actions]
                if does or whole:
                    expected.add(Flow(table, told, does, 7, whole))
    monitor, pipeline = pipeline_of(switch)
    monitor.close()
    assert set(pipeline) == expected


@pytest.mark.parametrize("protocol", ["OpenFlow13", "OpenFlow14", "OpenFlow15"])
def test_flows_and_groups(switch: Switch, protocol: str) -> None:
    switch.set_columns("Bridge", "br0", protocols=protocol)
    ofctl = ("-O", protocol)
    switch.ofctl(*ofctl, "del-flows", "br0")
    for number, group in GROUPS:
        switch.ofctl(*ofctl, "add-group", "br0", f"group_id={number},{group}")
    lines: list[str] = []
    expected: list[Flow] = []
    texts: dict[int, str] = {}

    def add(match: str, actions: str) -> int:
        table = len(lines)
        texts[table] = f"{match} {actions}"
        lines.append(
            f"cookie={table + 1:#x},table={table},priority={table},{match}actions={actions}"
        )
        return table

    for match, known in MATCHES:
        expected.append(Flow(add(match + ",", "1"), known, to(1)))
    for prefix, known, cases in (
        ("", Known(), ACTIONS),
        ("ct_state=+trk+est,tcp,", Known(), TCP_ACTIONS),
        ("vlan_tci=0x1000/0x1000,", TAGGED, TAGGED_ACTIONS),
    ):
        for text, actions in cases:
            table = add(prefix, text)
            expected += [Flow(table, known, actions)] if actions else []
    for text, actions, learned in LEARNED:
        table = add("", text)
        expected += [Flow(table, Known(), actions)] if actions else []
        expected += learned
    file = switch.rundir / "flows"
    file.write_text("\n".join(lines))
    switch.ofctl(*ofctl, "add-flows", "br0", str(file))

    monitor, pipeline = pipeline_of(switch)
    monitor.close()
    seen = {_plain(flow) for flow in pipeline if flow.actions}
    for flow in seen ^ set(expected):
        print("expected" if flow in expected else "seen", texts.get(flow.table), flow)
    assert seen == set(expected)
    assert pipeline.groups == PARSED_GROUPS
    own = {flow: name for flow, name in pipeline.flows.items() if flow.table == name.table}
    assert set(own.values()) == {FlowName(flow.table, flow.table, flow.table + 1) for flow in own}
