"""Flow tables and port flags of a real Open vSwitch, seen as they change."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ovs.poller
import pytest

from bench.mirror_log import MirrorLog
from flow_traits import traits_in
from ovs_ebpf_tap.lab.frames import arp_request
from ovs_ebpf_tap.lab.sidecar_process import SidecarProcess
from ovs_ebpf_tap.lab.switch import Switch
from ovs_ebpf_tap.lab.waiting import patience, wait_for
from ovs_ebpf_tap.model.flow import Group, Output, ToGroup
from ovs_ebpf_tap.model.flow_traits import FlowTraits, PortFlags
from ovs_ebpf_tap.model.rows import REASON_KEY
from ovs_ebpf_tap.model.tunnel import GeneveOption
from ovs_ebpf_tap.observe import ofp, openflow_channel
from ovs_ebpf_tap.observe.flow_tables import FlowTables
from talking import add_trio

NOTHING = FlowTraits()
MODIFIES = FlowTraits(modifies=True)
OUTPUTS = FlowTraits(outputs=True)

SOON = 2.0
"""Seconds: what is looked at every second, and half a second to connect again."""


@pytest.fixture
def tables(switch: Switch) -> Iterator[FlowTables]:
    """Watches br0, and knows it."""
    made = FlowTables(switch.rundir)
    made.watch(["br0"])
    within(made, lambda: "br0" in traits_in(made) and "br0" in made.port_flags)
    yield made
    made.close()


def within(tables: FlowTables, condition: Callable[[], object], seconds: float = SOON) -> float:
    """Drives it as the sidecar's loop does; returns the most seconds that a `run` worked."""
    deadline = time.monotonic() + patience(seconds)
    longest = 0.0
    while True:
        began = time.thread_time()  # Others may need the processors meanwhile.
        tables.run()
        longest = max(longest, time.thread_time() - began)
        if condition():
            return longest
        left = deadline - time.monotonic()
        assert left > 0, (traits_in(tables), tables.port_flags)
        poller = ovs.poller.Poller()
        tables.wait(poller)
        poller.timer_wait(int(left * 1000) + 1)
        poller.block()


def flows_are(tables: FlowTables, expected: FlowTraits, bridge: str = "br0") -> None:
    within(tables, lambda: traits_in(tables).get(bridge) == expected)


def flags_are(tables: FlowTables, expected: PortFlags, bridge: str = "br0") -> None:
    within(tables, lambda: tables.port_flags.get(bridge) == expected)


def test_flows_come_and_go(switch: Switch, tables: FlowTables) -> None:
    assert traits_in(tables) == {"br0": NOTHING}
    switch.ofctl("add-flow", "br0", "priority=5,udp,actions=mod_dl_src:02:00:00:00:00:01,normal")
    flows_are(tables, MODIFIES)
    switch.ofctl("add-flow", "br0", "table=9,actions=output:1,load:1->NXM_NX_REG0[],output:1")
    flows_are(tables, FlowTraits(modifies=True, outputs=True))
    switch.ofctl("mod-flows", "br0", "udp,actions=normal")
    flows_are(tables, FlowTraits(outputs=True))
    switch.ofctl("add-flow", "br0", "table=9,actions=1")  # The same flow, replaced.
    flows_are(tables, OUTPUTS)
    switch.ofctl("--strict", "del-flows", "br0", "table=9,priority=32768")
    flows_are(tables, NOTHING)
    switch.ofctl("add-flow", "br0", "hard_timeout=1,priority=7,actions=flood")
    flows_are(tables, OUTPUTS)
    within(tables, lambda: traits_in(tables)["br0"] == NOTHING, 5)


def test_a_learned_flow(switch: Switch, tables: FlowTables) -> None:
    a = switch.add_host("a", with_ip=False)
    learn = "learn(table=3,NXM_OF_ETH_SRC[],load:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[])"
    switch.ofctl("add-flow", "br0", f"priority=9,actions={learn}")
    flows_are(tables, MODIFIES)
    a.send([arp_request(a, a.ip)])
    wait_for(lambda: "table=3" in switch.ofctl("dump-flows", "br0"), what="the learned flow")
    switch.ofctl("del-flows", "br0", "table=0")
    flows_are(tables, MODIFIES)
    switch.ofctl("del-flows", "br0")
    flows_are(tables, NOTHING)


@pytest.mark.parametrize("protocol", ["OpenFlow13", "OpenFlow14", "OpenFlow15"])
def test_groups_change(switch: Switch, protocol: str) -> None:
    switch.set_columns("Bridge", "br0", protocols=protocol)
    ofctl = ("-O", protocol)
    tables = FlowTables(switch.rundir)
    tables.watch(["br0"])

    def group_is(*ports: int) -> None:
        buckets = tuple((Output(port),) for port in ports)
        expected = {7: Group(buckets, every=False)}
        within(
            tables, lambda: "br0" in tables.versions and tables.pipeline("br0").groups == expected
        )

    switch.ofctl(*ofctl, "add-group", "br0", "group_id=7,type=select,bucket=actions=1")
    switch.ofctl(*ofctl, "add-flow", "br0", "priority=5,udp,actions=group:7")
    group_is(1)
    switch.ofctl(
        *ofctl, "mod-group", "br0", "group_id=7,type=select,bucket=actions=2,bucket=actions=3"
    )
    group_is(2, 3)
    if protocol == "OpenFlow15":
        switch.ofctl(
            *ofctl,
            "insert-buckets",
            "br0",
            "group_id=7,command_bucket_id=last,bucket=bucket_id:5,actions=5",
        )
        group_is(2, 3, 5)
        switch.ofctl(*ofctl, "remove-buckets", "br0", "group_id=7,command_bucket_id=first")
        group_is(3, 5)
    switch.ofctl(*ofctl, "del-groups", "br0")
    within(tables, lambda: ToGroup(7) not in [a for f in tables.pipeline("br0") for a in f.actions])
    switch.ofctl(*ofctl, "add-group", "br0", "group_id=7,type=select,bucket=actions=4")
    switch.ofctl(*ofctl, "add-flow", "br0", "priority=5,udp,actions=group:7")
    group_is(4)
    tables.close()


@pytest.mark.parametrize("version", [ofp.OF13, ofp.OF14, ofp.OF15])
def test_nothing_but_changes_of_groups_is_asked_for(switch: Switch, version: int) -> None:
    """As Open vSwitch's own tool reads it."""
    printed = switch.ofctl("ofp-print", ofp.set_async(version, 1).hex())
    primary = printed.partition("primary:")[2].partition("secondary:")[0].split("\n")
    told = dict(line.strip().split(": ") for line in primary if line.strip())
    assert told.pop("REQUESTFORWARD") == "group_mod_request"
    assert set(told.values()) == {"(off)"}
    assert len(told) == 5


@pytest.mark.parametrize("protocol", ["OpenFlow13", "OpenFlow14", "OpenFlow15"])
def test_protocols_that_the_bridge_is_held_to(switch: Switch, protocol: str) -> None:
    switch.add_host("a")
    switch.set_columns("Bridge", "br0", protocols=protocol)
    tables = FlowTables(switch.rundir)
    tables.watch(["br0"])
    flows_are(tables, NOTHING)
    flags_are(tables, PortFlags())
    ofctl = ("-O", protocol)
    switch.ofctl(*ofctl, "add-flow", "br0", "priority=5,udp,actions=write_actions(output:1)")
    flows_are(tables, OUTPUTS)
    switch.ofctl(*ofctl, "add-flow", "br0", "priority=5,udp,actions=push_vlan:0x8100,normal")
    flows_are(tables, MODIFIES)
    switch.ofctl(*ofctl, "mod-port", "br0", "a0", "no-receive")
    flags_are(tables, PortFlags(no_receive=frozenset({"a0"})))
    known = "{class=0x102,type=0x80,len=4}->tun_metadata0"
    other = "{class=0xffff,type=1,len=124}->tun_metadata5"
    switch.ofctl(*ofctl, "add-tlv-map", "br0", f"{known},{other}")
    options = frozenset({GeneveOption(0x102, 0x80, 4), GeneveOption(0xFFFF, 1, 124)})
    flags_are(tables, PortFlags(no_receive=frozenset({"a0"}), geneve_options=options))
    tables.close()


def test_protocols_change_while_watched(switch: Switch, tables: FlowTables) -> None:
    switch.set_columns("Bridge", "br0", protocols="OpenFlow10")
    switch.ofctl("add-flow", "br0", "priority=5,udp,actions=1")
    switch.vsctl("clear", "Bridge", "br0", "protocols")
    flows_are(tables, OUTPUTS)


def test_flags_of_ports(switch: Switch, tables: FlowTables) -> None:
    switch.add_host("a")
    switch.add_host("b")
    assert tables.port_flags == {"br0": PortFlags()}
    a, b = frozenset({"a0"}), frozenset({"b0"})
    switch.ofctl("mod-port", "br0", "a0", "no-receive")
    flags_are(tables, PortFlags(no_receive=a))
    switch.ofctl("mod-port", "br0", "b0", "no-receive-stp")
    flags_are(tables, PortFlags(no_receive=a, no_receive_stp=b))
    switch.ofctl("mod-port", "br0", "a0", "no-forward")
    flags_are(tables, PortFlags(no_receive=a, no_receive_stp=b, no_forward=a))
    switch.ofctl("mod-port", "br0", "a0", "receive")
    flags_are(tables, PortFlags(no_receive_stp=b, no_forward=a))
    switch.vsctl("del-port", "a0")
    flags_are(tables, PortFlags(no_receive_stp=b))


def test_options_that_the_bridge_knows(switch: Switch, tables: FlowTables) -> None:
    switch.ofctl("add-tlv-map", "br0", "{class=0x102,type=0x80,len=4}->tun_metadata0")
    flags_are(tables, PortFlags(geneve_options=frozenset({GeneveOption(0x102, 0x80, 4)})))
    switch.ofctl("del-tlv-map", "br0")
    flags_are(tables, PortFlags())


@pytest.mark.parametrize("end", ["stop_vswitchd", "kill_vswitchd"])
def test_vswitchd_is_started_again(switch: Switch, tables: FlowTables, end: str) -> None:
    switch.add_host("a")
    switch.ofctl("add-flow", "br0", "priority=5,udp,actions=1")
    switch.ofctl("mod-port", "br0", "a0", "no-receive")
    flows_are(tables, OUTPUTS)
    getattr(switch, end)()
    within(tables, lambda: not traits_in(tables) and not tables.port_flags)
    switch.start_vswitchd()
    flows_are(tables, NOTHING)  # Nobody has put back what the old one had.
    flags_are(tables, PortFlags())
    switch.ofctl("add-flow", "br0", "priority=5,udp,actions=dec_ttl,normal")
    flows_are(tables, MODIFIES)


def test_a_bridge_is_made_again(switch: Switch, tables: FlowTables) -> None:
    switch.ofctl("add-flow", "br0", "priority=5,udp,actions=1")
    flows_are(tables, OUTPUTS)
    switch.vsctl("del-br", "br0")
    within(tables, lambda: not traits_in(tables))
    switch.add_bridge("br0")
    flows_are(tables, NOTHING)
    switch.ofctl("add-flow", "br0", "priority=5,udp,actions=dec_ttl,normal")
    flows_are(tables, MODIFIES)


def test_two_bridges(switch: Switch, tables: FlowTables) -> None:
    switch.add_bridge("br1")
    switch.add_host("a", bridge="br1")
    switch.ofctl("add-flow", "br1", "priority=5,udp,actions=1")
    tables.watch(["br0", "br1"])
    flows_are(tables, OUTPUTS, "br1")
    assert traits_in(tables)["br0"] == NOTHING
    switch.ofctl("add-flow", "br0", "priority=5,udp,actions=dec_ttl,normal")
    switch.ofctl("mod-port", "br1", "a0", "no-forward")
    flows_are(tables, MODIFIES)
    flags_are(tables, PortFlags(no_forward=frozenset({"a0"})), "br1")
    assert tables.port_flags["br0"] == PortFlags()
    tables.watch(["br1"])
    within(tables, lambda: set(traits_in(tables)) == {"br1"})


def test_watching_changes_nothing(switch: Switch, tables: FlowTables) -> None:
    """Packets that no flow matches are dropped, not sent to those who watch."""
    switch.add_host("a")
    switch.ofctl("del-flows", "br0")
    switch.ofctl("set-frags", "br0", "drop")
    within(tables, lambda: traits_in(tables)["br0"] == NOTHING)
    traced = switch.appctl("ofproto/trace", "br0", "in_port=1")
    assert traced.splitlines()[-1] == "Datapath actions: drop"
    assert switch.ofctl("get-frags", "br0") == "drop"
    log = switch.vswitchd_log()
    assert not [line for line in log.splitlines() if "|WARN|" in line and "br0" in line]


def cpu(pid: int) -> float:
    """Seconds that the main thread of a process has worked."""
    fields = Path(f"/proc/{pid}/task/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def test_many_flows(switch: Switch, tables: FlowTables, figure: Any) -> None:
    count = 20_000
    added = switch.rundir / "flows"
    added.write_text(
        "".join(
            f"table={n % 20 + 1},priority=5,udp,nw_src=10.0.{n >> 8}.{n & 255},"
            f"actions=load:{n}->NXM_NX_REG0[],output:1\n"
            for n in range(count)
        )
    )
    switch.ofctl("add-flows", "br0", str(added))
    pid = switch.vswitchd_pid()
    assert pid is not None
    before, began = cpu(pid), time.monotonic()
    held = 0

    def seen() -> bool:
        nonlocal held
        held = max(held, *(len(channel._input) for channel in anew._order))
        return "br0" in anew.versions

    anew = FlowTables(switch.rundir)
    anew.watch(["br0"])
    gc.disable()  # It would go through all that there is, pytest's, too.
    try:
        longest = within(anew, seen, 10)
    finally:
        gc.enable()
    took = time.monotonic() - began
    assert traits_in(anew)["br0"] == OUTPUTS
    figure(
        f"{count} flows seen in {took * 1000:.0f} ms, at most {longest * 1000:.0f} ms at once, "
        f"holding {held} bytes; ovs-vswitchd's main thread worked "
        f"{(cpu(pid) - before) * 1000:.0f} ms"
    )
    assert held <= openflow_channel.CHUNK + ofp.MAX_LENGTH
    assert longest <= patience(0.05)
    switch.ofctl("del-flows", "br0", "udp")
    within(anew, lambda: len(anew.pipeline("br0").flows) == 1)
    within(tables, lambda: len(tables.pipeline("br0").flows) == 1)
    anew.close()


def test_ports_that_are_selected_while_nothing_is_told(switch: Switch) -> None:
    """Are not offloaded before flows are known; those that were offloaded before stay so."""
    add_trio(switch)
    port = switch.get("Port", "b0", "_uuid")
    with MirrorLog(switch.db) as log, SidecarProcess(switch):
        log.wait_row("m1", 0, lambda row: row.offloaded and row.settled)
        since = time.time()
        switch.set_columns("Bridge", "br0", protocols="OpenFlow10")
        switch.restart_vswitchd()
        time.sleep(1)
        assert all(row.offloaded for row in log.told if row.told > since)
        since = time.time()
        switch.vsctl("add", "Mirror", "m1", "select_dst_port", port)
        row = log.wait_row("m1", since, lambda row: row.settled and not row.offloaded)
        assert "flow tables are not known" in row.external_ids[REASON_KEY]
        since = time.time()
        switch.vsctl("clear", "Bridge", "br0", "protocols")
        row = log.wait_row("m1", since, lambda row: row.settled and row.offloaded)
