"""What the hooks can't copy as OVS would stays with OVS: whole, with a state and a reason."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from ovs_ebpf_tap.lab.capture import Capture
from ovs_ebpf_tap.lab.frames import parse_seq, sequenced
from ovs_ebpf_tap.lab.sidecar_process import SidecarProcess, hook_count
from ovs_ebpf_tap.lab.switch import Host, Switch
from ovs_ebpf_tap.lab.waiting import wait_for

A_TO_B, C_TO_B, B_TO_A = 1, 2, 3
FRAMES = 8
MODE = "external_ids:ebpf-tap-mode"
MODE_IS_NATIVE = "ebpf-tap-mode is native"

Vlans = tuple[int, ...]
Vsctl = tuple[str, ...]


@dataclass(frozen=True)
class RowChange:
    """A change of a live mirror's row or of what it refers to, and how to undo it.

    Both are arguments of ovs-vsctl in one string. `reason` has to occur in the row's. `copied` are
    the streams that OVS copies, once each, to the hosts `at`, when a's frames are tagged `tags_a`
    and the others' `tags`.
    """

    name: str
    change: str
    undo: str
    reason: str
    tags_a: Vlans = ()
    tags: Vlans = ()
    copied: tuple[int, ...] = (A_TO_B, C_TO_B)
    at: tuple[str, ...] = ("m",)
    state: str = "native"
    select_vlan: Vlans = ()


def setting(name: str, port: str, setting: str, reason: str, **more: Vlans) -> RowChange:
    """A case of a Port row's columns, which are empty by default."""
    undo = f"clear Port {port} tag trunks cvlans vlan_mode other_config"
    return RowChange(name, f"set Port {port} {setting}", undo, reason, **more)  # type: ignore[arg-type]


def live(name: str, change: str, undo: str, **more: Vlans | tuple[str, ...]) -> RowChange:
    """A case of what hooks copy."""
    return RowChange(name, change, undo, "", state="offloaded", **more)  # type: ignore[arg-type]


def live_setting(name: str, port: str, columns: str, **more: Vlans) -> RowChange:
    """A case of a Port row's columns where hooks copy."""
    undo = f"clear Port {port} tag trunks cvlans vlan_mode other_config"
    return live(name, f"set Port {port} {columns}", undo, **more)


def vlans_selected(name: str, vlans: Vlans, **more: Vlans) -> RowChange:
    """A case of `select_vlan` where hooks copy."""
    change = f"set Mirror m1 select_vlan={','.join(map(str, vlans))}"
    return replace(live(name, change, "clear Mirror m1 select_vlan", **more), select_vlan=vlans)


def output(port: str, more: str = "") -> str:
    """Arguments that set the output port."""
    return f"--id=@o get Port {port} -- set Mirror m1 output_port=@o {more}"


def selected(port: str, column: str = "select_src_port") -> str:
    """Arguments that select a port besides."""
    return f"--id=@s get Port {port} -- add Mirror m1 {column} @s"


def second_mirror(columns: str, mode: str) -> str:
    """Arguments that add a mirror m2; @a, @c, @d and @m are ports."""
    gets = " -- ".join(f"--id=@{name} get Port {name}0" for name in "acdm")
    create = f"--id=@m2 create Mirror name=m2 {columns} {MODE}={mode}"
    return f"{gets} -- {create} -- add Bridge br0 mirrors @m2"


NO_SECOND = "--id=@m2 get Mirror m2 -- remove Bridge br0 mirrors @m2"
OUTPUT_M = output("m0")
NO_OUTPUT = "clear Mirror m1 output_port -- set Mirror m1"
TEN: Vlans = (10,)

CASES = [
    RowChange(
        "snaplen_of_an_internal_output",
        output("br0", "snaplen=200"),
        output("m0", "-- clear Mirror m1 snaplen"),
        "output port br0 is internal, and the mirror has a snaplen",
        copied=(),
    ),
    RowChange(
        "another_snaplen",
        second_mirror("select_src_port=@c output_port=@m snaplen=200", "offload"),
        NO_SECOND,
        "a mirror of another snaplen",
    ),
    RowChange(
        "two_bridges",
        "--id=@m get Mirror m1 -- add Bridge br1 mirrors @m",
        "--id=@m get Mirror m1 -- remove Bridge br1 mirrors @m",
        "it is on more than one bridge",
    ),
    RowChange(
        "output_vlan_out_of_a_tunnel",
        "set Port a0 vlan_mode=dot1q-tunnel tag=10 -- set Port d0 tag=99 -- "
        "clear Mirror m1 output_port select_dst_port -- set Mirror m1 output_vlan=99",
        "clear Port a0 vlan_mode tag -- clear Port d0 tag -- clear Mirror m1 output_vlan -- "
        f"{OUTPUT_M} -- {selected('b0', 'select_dst_port')}",
        "a port of its output_vlan takes tags off",
        copied=(A_TO_B,),
        at=("d",),
    ),
    setting(
        "destination_cvlans",
        "b0",
        "cvlans=7 vlan_mode=dot1q-tunnel tag=10",
        "port b0 is a dot1q-tunnel",
        tags_a=TEN,
        tags=(7,),
        copied=(A_TO_B,),
    ),
    setting(
        "destination_priority_tags",
        "b0",
        "tag=10 other_config:priority-tags=true",
        "port b0 has priority-tags",
        tags_a=TEN,
        tags=TEN,
    ),
    setting(
        "tunnel_without_a_tag",
        "d0",
        "vlan_mode=dot1q-tunnel",
        "port d0 is a dot1q-tunnel without a tag",
    ),
    RowChange(
        "trunk_between_a_tunnel_and_an_access_port",
        "set Port d0 vlan_mode=dot1q-tunnel tag=9 -- set Port m0 tag=10",
        "clear Port d0 vlan_mode tag -- clear Port m0 tag",
        "port b0 sends what comes from dot1q-tunnels and from others",
    ),
    RowChange(
        "output_protected",
        "set Port m0 protected=true -- set Port d0 protected=true",
        "set Port m0 protected=false -- set Port d0 protected=false",
        "output port m0 is protected, and so is d0",
    ),
    RowChange(
        "patch_port",
        "add-port br0 patch0 -- set Interface patch0 type=patch options:peer=patch1 -- "
        "add-port br1 patch1 -- set Interface patch1 type=patch options:peer=patch0 -- "
        + selected("patch0"),
        "del-port patch0 -- del-port patch1",
        "port patch0 is of type patch",
    ),
    RowChange(
        "tunnel",
        "add-port br0 vx0 -- set Interface vx0 type=vxlan options:remote_ip=192.0.2.9 -- "
        + selected("vx0", "select_dst_port"),
        "del-port vx0",
        "port vx0 is of type vxlan",
    ),
    RowChange(
        "bond_as_output",
        output("bond0", "-- set Port bond0 bond_mode=balance-slb"),
        f"{OUTPUT_M} -- set Port bond0 bond_mode=active-backup",
        "output port bond0 is a bond",
        at=("p", "q"),
    ),
    RowChange("stp", "set Bridge br0 stp_enable=true", "set Bridge br0 stp_enable=false", "STP"),
    RowChange(
        "rstp", "set Bridge br0 rstp_enable=true", "set Bridge br0 rstp_enable=false", "RSTP"
    ),
    RowChange(
        "mode_of_mirror",
        f"set Mirror m1 {MODE}=native",
        f"set Mirror m1 {MODE}=offload",
        MODE_IS_NATIVE,
    ),
    RowChange(
        "mode_of_bridge",
        f"remove Mirror m1 external_ids ebpf-tap-mode -- set Bridge br0 {MODE}=native",
        "remove Bridge br0 external_ids ebpf-tap-mode",
        MODE_IS_NATIVE,
    ),
    RowChange(
        "mode_of_all",
        f"remove Mirror m1 external_ids ebpf-tap-mode -- set Open_vSwitch . {MODE}=native",
        "remove Open_vSwitch . external_ids ebpf-tap-mode",
        MODE_IS_NATIVE,
    ),
    RowChange(
        "mode_of_mirror_before_bridge",
        f"set Mirror m1 {MODE}=native -- set Bridge br0 {MODE}=offload",
        f"set Mirror m1 {MODE}=offload -- remove Bridge br0 external_ids ebpf-tap-mode",
        MODE_IS_NATIVE,
    ),
    RowChange(
        "no_output",
        "clear Mirror m1 output_port",
        OUTPUT_M,
        "output_port",
        copied=(),
        state="invalid",
    ),
    RowChange(
        "output_on_another_bridge",
        output("n0"),
        OUTPUT_M,
        "not on this bridge",
        copied=(),
        at=("m", "n"),
        state="invalid",
    ),
    RowChange(
        "output_shared_with_a_native_mirror",
        second_mirror("select_src_port=@c output_port=@m", "native"),
        NO_SECOND,
        "shares its output with mirror m2",
    ),
    RowChange(
        "output_selected_by_a_native_mirror",
        second_mirror("select_dst_port=@m output_port=@d", "native"),
        NO_SECOND,
        "mirror m2, which is native, selects its output port",
    ),
]

# What comes with the state `offloaded`, and no reason.
OFFLOADED = [
    vlans_selected("select_vlan", TEN, tags_a=TEN, copied=(A_TO_B,)),
    vlans_selected("two_vlans", (10, 20), tags_a=TEN, tags=(20,)),
    vlans_selected("no_vlan_of_these", (10, 20), copied=()),
    live(
        "output_vlan", f"{NO_OUTPUT} output_vlan=99", f"clear Mirror m1 output_vlan -- {OUTPUT_M}"
    ),
    live("snaplen", "set Mirror m1 snaplen=200", "clear Mirror m1 snaplen"),
    live_setting("source_tag", "a0", "tag=10", tags=TEN),
    live_setting("source_trunks", "a0", "trunks=10", tags_a=TEN, tags=TEN),
    live_setting("source_native_untagged", "a0", "vlan_mode=native-untagged tag=10", tags=TEN),
    live_setting("source_native_tagged", "a0", "vlan_mode=native-tagged tag=10", tags=TEN),
    live_setting(
        "source_tunnel", "a0", "cvlans=7 vlan_mode=dot1q-tunnel tag=10", tags_a=(7,), tags=TEN
    ),
    live_setting("source_priority_tags", "a0", "other_config:priority-tags=true"),
    live_setting("not_admitted", "a0", "tag=10", tags_a=(20,), tags=TEN, copied=(C_TO_B,)),
    live_setting("destination_trunks", "b0", "trunks=10", tags_a=TEN, tags=TEN),
    live_setting(
        "destination_native", "b0", "vlan_mode=native-untagged tag=10", tags_a=TEN, tags=TEN
    ),
    live_setting("destination_priority_tags", "b0", "other_config:priority-tags=true"),
    live_setting("output_tag", "m0", "tag=10"),
    live_setting("output_native", "m0", "vlan_mode=native-untagged tag=10"),
    live_setting("output_tunnel", "m0", "vlan_mode=dot1q-tunnel tag=10"),
    live_setting("output_cvlans", "m0", "cvlans=7"),
    live_setting("output_priority_tags", "m0", "other_config:priority-tags=true"),
    live("bond", output("bond0"), OUTPUT_M, at=("p", "q")),
    live(
        "own_output_as_destination",
        selected("m0", "select_dst_port"),
        "--id=@s get Port m0 -- remove Mirror m1 select_dst_port @s",
    ),
]


class LiveMirrorBench:
    """A switch with a live mirror m1 (source a, destination b, output m) and its sidecar."""

    def __init__(self, switch: Switch, tap: SidecarProcess) -> None:
        self.switch = switch
        self.tap = tap
        self.fresh = True
        switch.add_bridge("br0")
        switch.add_bridge("br1")
        for name in "abcdm":
            switch.add_host(name, with_ip=False)
        switch.add_host("n", "br1", with_ip=False)
        switch.add_bond("bond0", ["p", "q"], with_ip=False, bond_mode="active-backup")
        # The shortest that there is, and still several seconds.
        switch.vsctl("set", "Bridge", "br0", "other_config:stp-forward-delay=4")
        switch.vsctl("set", "Bridge", "br0", "other_config:rstp-forward-delay=4")
        switch.learn(self["a"], self["b"], self["c"])
        switch.mirror("m1", src=[self["a"]], dst=[self["b"]], output=self["m"])
        tap.start()
        tap.wait_state("m1", "offloaded")

    def __getitem__(self, name: str) -> Host:
        return self.switch.hosts[name]

    def vsctl(self, arguments: str) -> None:
        """Runs ovs-vsctl with arguments that hold no blanks."""
        self.switch.vsctl("--", *arguments.split())

    def send(self, numbers: range, tags_a: Vlans, tags: Vlans, silent: str) -> None:
        streams = [(B_TO_A, "b", "a", tags), (A_TO_B, "a", "b", tags_a), (C_TO_B, "c", "b", tags)]
        for stream, sender, receiver, tagged in streams:
            if sender not in silent:
                pair = self[sender], self[receiver]
                self[sender].send(sequenced(*pair, stream, seq, 128, tagged) for seq in numbers)

    def copies(
        self, at: tuple[str, ...], tags_a: Vlans = (), tags: Vlans = (), silent: str = ""
    ) -> Counter[tuple[int, int]]:
        """Sends numbered frames and returns how often each was seen at some hosts."""
        with contextlib.ExitStack() as stack:
            captures = [stack.enter_context(Capture.of(self[name])) for name in at]
            # Learns addresses and makes flows; a copy that comes late tells itself by its number.
            self.send(range(FRAMES, FRAMES + 1), tags_a, tags, silent)
            self.switch.appctl("revalidator/wait")  # No flow floods what is learned by now.
            for capture in captures:
                capture.wait_quiet(0.1)
                capture.clear()
            self.send(range(FRAMES), tags_a, tags, silent)
            for capture in captures:
                capture.wait_quiet(0.1)
            frames = [frame for capture in captures for frame in capture.frames()]
        seen = (parse_seq(frame) for frame in frames)
        return Counter(found for found in seen if found is not None and found[1] < FRAMES)

    def select_vlan(self) -> Vlans:
        printed = self.switch.get("Mirror", "m1", "select_vlan").strip("[]")
        return tuple(int(vlan) for vlan in printed.split(",") if vlan)

    def status(self) -> dict[str, object]:
        rows = self.tap.status()
        (found,) = (row for row in rows if (row["bridge"], row["name"]) == ("br0", "m1"))
        return found

    def assert_not_offloaded(self, state: str, reason: str, select_vlan: Vlans = ()) -> None:
        """Asserts that the row, `status` and the kernel all say so."""
        self.tap.wait_state("m1", state)
        told = wait_for(lambda: self.tap.reason("m1") or "", what="a reason")
        assert reason in told
        assert len(told.splitlines()) == 1
        assert self.select_vlan() == select_vlan
        wait_for(lambda: not self.status()["hooks"], what="no hooks of m1")
        status = self.status()
        assert (status["state"], status["reason"]) == (state, told)
        ids = self.tap.external_ids("m1")
        assert "ebpf-tap-select-vlan" not in ids
        assert "ebpf-tap-protected" not in ids

    def assert_parked(self, vlans: Vlans = ()) -> None:
        """Asserts that m1 is parked in the database, with these VLANs kept, and in the hooks."""
        kept = ",".join(map(str, vlans))

        def parked() -> bool:
            ids = self.tap.external_ids("m1")
            return self.select_vlan() == (4095,) and ids.get("ebpf-tap-select-vlan") == kept

        wait_for(parked, what="m1 parked")
        self.tap.wait_state("m1", "offloaded")
        assert "ebpf-tap-reason" not in self.tap.external_ids("m1")
        status = self.status()
        assert (status["state"], status["reason"]) == ("offloaded", None)
        assert status["hooks"]

    def assert_offloaded(self) -> None:
        """Asserts that m1 is parked, and copied exactly once."""
        self.assert_parked()
        assert self.copies(("m",)) == once(A_TO_B, C_TO_B)
        assert self.switch.get("Port", "m0", "protected") == "false"


def once(*streams: int) -> Counter[tuple[int, int]]:
    """What `copies` returns when all frames of the streams were copied once."""
    return Counter((stream, seq) for stream in streams for seq in range(FRAMES))


class Group:
    """One bench for many tests; a test that fails has the next one start with another."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._bench: LiveMirrorBench | None = None

    @contextlib.contextmanager
    def use(self) -> Iterator[LiveMirrorBench]:
        if self._bench is None or not self._bench.fresh:
            self.close()
            switch = self._stack.enter_context(Switch())
            tap = SidecarProcess(switch)
            self._stack.callback(tap.close)
            self._bench = LiveMirrorBench(switch, tap)
        bench = self._bench
        bench.fresh = False
        yield bench

    def close(self) -> None:
        self._bench = None
        self._stack.close()


@pytest.fixture(scope="module")
def group() -> Iterator[Group]:
    made = Group()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def bench(group: Group) -> Iterator[LiveMirrorBench]:
    with group.use() as used:
        yield used


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_stays_with_ovs(bench: LiveMirrorBench, case: RowChange) -> None:
    bench.vsctl(case.change)
    bench.assert_not_offloaded(case.state, case.reason, case.select_vlan)
    assert hook_count(bench.switch) == 0
    if case.name in ("stp", "rstp"):
        wait_forwarding(bench)
    assert bench.copies(case.at, case.tags_a, case.tags) == once(*case.copied)
    protected = bench.switch.get("Port", "m0", "protected")
    assert protected == str(case.name == "output_protected").lower()
    bench.vsctl(case.undo)
    if case.name in ("stp", "rstp"):
        # OVS forwards nothing for a moment when a spanning tree ends, either.
        wait_forwarding(bench)
    bench.assert_offloaded()
    bench.fresh = True


@pytest.mark.parametrize("case", OFFLOADED, ids=lambda case: case.name)
def test_what_the_hooks_copy(bench: LiveMirrorBench, case: RowChange) -> None:
    """As often as OVS did; `tests/parity` compares the copies themselves."""
    bench.vsctl(case.change)
    bench.assert_parked(case.select_vlan)
    expected = once(*case.copied)

    def copied() -> bool:
        return bench.copies(case.at, case.tags_a, case.tags) == expected

    wait_for(copied, what="copies as they should be")
    assert bench.copies(case.at, case.tags_a, case.tags) == expected
    bench.vsctl(case.undo)
    wait_for(lambda: bench.copies(("m",)) == once(A_TO_B, C_TO_B), what="copies as before")
    bench.assert_offloaded()
    bench.fresh = True


@pytest.mark.parametrize(
    ("port", "flag", "undo", "reason"),
    [
        ("a0", "no-receive-stp", "receive-stp", "port a0 has the OpenFlow flag no-receive-stp"),
        ("m0", "no-forward", "forward", "output port m0 has the OpenFlow flag no-forward"),
    ],
)
def test_flags_of_ports(
    bench: LiveMirrorBench, port: str, flag: str, undo: str, reason: str
) -> None:
    bench.switch.ofctl("mod-port", "br0", port, flag)
    bench.assert_not_offloaded("native", reason)
    streams = () if flag == "no-forward" else (A_TO_B, C_TO_B)
    assert bench.copies(("m",)) == once(*streams)
    bench.switch.ofctl("mod-port", "br0", port, undo)
    bench.assert_offloaded()
    bench.fresh = True


@pytest.mark.parametrize(
    ("flow", "reason"),
    [
        ("udp,actions=normal,normal", "may output a packet to port"),
    ],
)
def test_flows(bench: LiveMirrorBench, flow: str, reason: str) -> None:
    bench.switch.ofctl("add-flow", "br0", f"priority=9,{flow}")
    bench.assert_not_offloaded("native", reason)
    bench.switch.ofctl("--strict", "del-flows", "br0", "priority=9,udp")
    bench.assert_offloaded()
    bench.fresh = True


def wait_forwarding(bench: LiveMirrorBench) -> None:
    """Waits until the spanning tree lets frames through."""

    def passes() -> bool:
        return bool(bench.copies(("b",)))

    wait_for(passes, 40, "ports that forward")


def test_destination_that_is_down(bench: LiveMirrorBench) -> None:
    bench.switch.ns.run("ip", "link", "set", "b0", "down")
    bench.assert_not_offloaded("native", "port b0: device b0 is down")
    assert hook_count(bench.switch) == 0
    assert bench.copies(("m",), silent="b") == once(A_TO_B, C_TO_B)
    bench.switch.ns.run("ip", "link", "set", "b0", "up")
    bench.assert_offloaded()
    bench.fresh = True


@pytest.mark.skipif(
    os.environ.get("OVS_EBPF_TAP_DATAPATH") == "system", reason="the userspace datapath's way"
)
def test_destination_under_another_name(bench: LiveMirrorBench) -> None:
    """OVS goes on sending to it, and copying what it sends; so do we who saw it renamed."""
    for name, new in (("b0", "b1"), ("b1", "b0")):
        for words in ((name, "down"), (name, "name", new), (new, "up")):
            bench.switch.ns.run("ip", "link", "set", "dev", *words)
        bench.assert_offloaded()
        if new == "b1":
            assert bench.copies(("m",)) == once(A_TO_B, C_TO_B)
            # Who comes later does not know.
            bench.tap.restart()
            bench.assert_not_offloaded("native", "port b0: device b0 has another name")
            assert bench.copies(("m",)) == once(A_TO_B, C_TO_B)
    bench.fresh = True


@pytest.mark.parametrize(
    ("mirror", "bridge", "everything", "native"),
    [
        ("offload", "native", "native", False),
        ("", "offload", "native", False),
        ("", "native", "offload", True),
        ("", "", "native", True),
        ("native", "offload", "offload", True),
        ("", "", "offload", False),
    ],
)
def test_the_nearest_mode_holds(
    bench: LiveMirrorBench, mirror: str, bridge: str, everything: str, native: bool
) -> None:
    rows = [("Mirror", "m1", mirror), ("Bridge", "br0", bridge), ("Open_vSwitch", ".", everything)]
    changes = [f"set {table} {row} {MODE}={mode}" for table, row, mode in rows if mode]
    changes += [
        f"remove {table} {row} external_ids ebpf-tap-mode" for table, row, mode in rows if not mode
    ]
    bench.vsctl(" -- ".join(changes))
    if native:
        bench.assert_not_offloaded("native", "ebpf-tap-mode is native")
        assert bench.copies(("m",)) == once(A_TO_B, C_TO_B)
    else:
        bench.assert_offloaded()
    removals = [f"remove {table} {row} external_ids ebpf-tap-mode" for table, row, _ in rows]
    bench.vsctl(" -- ".join(removals))
    bench.assert_offloaded()
    bench.fresh = True


# New intent while parked.


@pytest.mark.parametrize(
    ("change", "intent"),
    [
        ("set Mirror m1 select_vlan=10", (10,)),
        ("set Mirror m1 select_vlan=10,20", (10, 20)),
        ("set Mirror m1 select_vlan=0", (0,)),
        ("add Mirror m1 select_vlan 10", (10, 4095)),
        ("remove Mirror m1 select_vlan 4095 -- add Mirror m1 select_vlan 10", (10,)),
    ],
)
def test_vlans_selected_while_parked_are_kept(
    bench: LiveMirrorBench, change: str, intent: Vlans
) -> None:
    bench.assert_offloaded()
    bench.vsctl(change)
    bench.assert_parked(intent)
    tags: Vlans = () if intent == (0,) else TEN
    other: Vlans = TEN if intent == (0,) else ()

    def assert_copies() -> None:
        """Copies of the VLANs wanted, and of no others."""
        both = once(A_TO_B, C_TO_B)
        wait_for(lambda: bench.copies(("m",), tags, tags) == both, what="copies of the VLANs")
        assert bench.copies(("m",), other, other) == once()

    assert_copies()
    # The mode doesn't matter to what the user wants: it is still there afterwards.
    bench.tap.set_mode("m1", "native")
    bench.assert_not_offloaded("native", "ebpf-tap-mode", intent)
    assert_copies()
    bench.tap.set_mode("m1", "offload")
    bench.assert_parked(intent)
    assert_copies()
    bench.vsctl("clear Mirror m1 select_vlan")
    bench.assert_offloaded()
    bench.fresh = True


@pytest.mark.parametrize(
    "change",
    [
        "clear Mirror m1 select_vlan",
        "remove Mirror m1 select_vlan 4095",
        "set Mirror m1 select_vlan=[]",
        "set Mirror m1 select_vlan=4095",
    ],
)
def test_no_vlans_selected_while_parked_is_parked_again(
    bench: LiveMirrorBench, change: str
) -> None:
    bench.assert_offloaded()
    for _ in range(3):
        bench.vsctl(change)
        bench.assert_offloaded()
    bench.fresh = True


def test_vlans_change_while_no_sidecar_runs(bench: LiveMirrorBench) -> None:
    bench.assert_offloaded()
    bench.tap.stop()
    bench.vsctl("set Mirror m1 select_vlan=10")
    bench.tap.start()
    bench.assert_parked(TEN)
    assert bench.copies(("m",), TEN) == once(A_TO_B)
    bench.tap.stop()
    bench.vsctl("clear Mirror m1 select_vlan")
    bench.tap.start()
    bench.assert_offloaded()
    bench.fresh = True


def test_other_columns_change_while_parked(bench: LiveMirrorBench) -> None:
    """Selected ports, output port and name are the user's, parked or not."""
    bench.assert_offloaded()
    bench.vsctl("--id=@c get Port c0 -- set Mirror m1 name=other select_src_port=@c")
    bench.tap.wait_state("other", "offloaded")

    def hooks() -> set[str]:
        return {hook for row in bench.tap.status() for hook in row["hooks"]}

    wait_for(lambda: any(hook.startswith("c0:") for hook in hooks()), what="a hook on c0")
    assert not any(hook.startswith("a0:") for hook in hooks())
    assert bench.copies(("m",)) == once(A_TO_B, C_TO_B)
    bench.vsctl("clear Mirror other select_dst_port")
    wait_for(lambda: not any(hook.startswith("b0:") for hook in hooks()), what="no hook on b0")
    assert bench.copies(("m",)) == once(C_TO_B)
    gets = "--id=@a get Port a0 -- --id=@b get Port b0"
    columns = "name=m1 select_src_port=@a select_dst_port=@b"
    bench.vsctl(f"{gets} -- set Mirror other {columns}")
    wait_for(lambda: any(hook.startswith("b0:") for hook in hooks()), what="a hook on b0")
    bench.assert_offloaded()
    bench.fresh = True
