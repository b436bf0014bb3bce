"""Controllers that keep rewriting flows move no mirror, unless a flow that repeats packets comes.

Each test sends numbered frames from and to the mirrored port: all have to be copied, once.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest

from bench.mirror_log import MirrorLog, MirrorUpdate
from ovs_ebpf_tap.lab.capture import Capture
from ovs_ebpf_tap.lab.sidecar_process import SidecarProcess
from ovs_ebpf_tap.lab.switch import Host, Switch
from ovs_ebpf_tap.lab.traffic import Stream
from ovs_ebpf_tap.model.rows import REASON_KEY, STATE_KEY
from rewriting import KINDS, Rewriter, add_groups, groups, install, pipeline, repeating
from talking import add_trio

RATE = 500
"""Flows replaced a second: the machine has others to serve."""


class Bridge:
    """A pipeline as OVN's, and an offloaded mirror of a port in both directions."""

    def __init__(self, switch: Switch, log: MirrorLog, hosts: tuple[Host, Host, Host]) -> None:
        self.switch = switch
        self.log = log
        self.a, self.b, self._monitor = hosts
        self.flows = pipeline(switch, hosts, elsewhere=20, more=300)

    def install(self) -> None:
        """Adds all groups and flows."""
        add_groups(self.switch, groups())
        install(self.switch, self.flows)

    @contextlib.contextmanager
    def undisturbed(self, *, arriving: bool = True) -> Iterator[None]:
        """Meanwhile the row stays as it is, and each frame that a sends is copied once.

        So is each that `arriving` at a; not where flows that would send it there go away.
        """
        before = self.shown()
        since = time.time()
        senders = [Stream(self.a, self.b, rate=500, stream_id=1)]
        if arriving:
            senders.append(Stream(self.b, self.a, rate=500, stream_id=2))
        with Capture.of(self._monitor) as copies:
            with contextlib.ExitStack() as stack:
                for sender in senders:
                    stack.enter_context(sender)
                yield
            copies.wait_quiet()
        told = [_shown(row) for row in self.log.told if row.told >= since]
        assert set(told) <= {before}
        for sender in senders:
            counts = Counter(copies.sequences(sender.stream_id))
            assert sender.sent
            assert counts == Counter(range(sender.sent))

    def shown(self) -> Sequence[str | None]:
        """What the mirror's row shows."""
        (row,) = self.log.rows
        return _shown(row)


def _shown(row: MirrorUpdate) -> Sequence[str | None]:
    keys = (STATE_KEY, REASON_KEY)
    return row.name, *(row.external_ids.get(key) for key in keys), str(row.select_vlan)


@pytest.fixture(scope="module")
def bridge() -> Iterator[Bridge]:
    with Switch() as switch:
        switch.add_bridge()
        hosts = add_trio(switch)
        switch.ofctl("del-flows", "br0")
        with MirrorLog(switch.db) as log:
            made = Bridge(switch, log, hosts)
            made.install()
            with SidecarProcess(switch):
                log.wait_row("m1", 0, lambda row: row.offloaded and row.settled)
                yield made


@pytest.mark.parametrize("bundle", [True, False], ids=["bundles", "one by one"])
@pytest.mark.parametrize("kind", KINDS)
def test_flows_are_rewritten(bridge: Bridge, kind: str, bundle: bool) -> None:
    with bridge.undisturbed(), Rewriter(bridge.switch, KINDS[kind](), RATE, bundle=bundle):
        time.sleep(2)


def test_all_flows_are_made_anew_in_one_bundle(bridge: Bridge) -> None:
    with bridge.undisturbed():
        for _ in range(3):
            install(bridge.switch, ["delete", *(f"add {flow}" for flow in bridge.flows)])
            time.sleep(0.3)


def test_all_flows_and_groups_are_deleted_and_added(bridge: Bridge) -> None:
    """Without flows, what arrives at the port is copied though it goes nowhere."""
    with (
        bridge.undisturbed(arriving=False),
        Rewriter(bridge.switch, KINDS["new ports"](), RATE, bundle=False),
    ):
        for _ in range(3):
            bridge.switch.ofctl("del-flows", "br0")
            bridge.switch.ofctl("-O", "OpenFlow15", "del-groups", "br0")
            time.sleep(0.3)
            bridge.install()
            time.sleep(0.3)


def test_groups_come_and_go(bridge: Bridge) -> None:
    """With the flows that use them, which Open vSwitch deletes with the group."""
    bucket = "bucket=actions=resubmit(,13)"
    with (
        bridge.undisturbed(),
        Rewriter(bridge.switch, KINDS["new ports"](), RATE, bundle=True),
    ):
        for number in range(100, 112):
            add_groups(bridge.switch, {number: f"group_id={number},type=select,{bucket},{bucket}"})
            flow = f"table=12,priority=60,dl_type=0x8{number},actions=group:{number}"
            install(bridge.switch, [flow])
            if number % 2:
                gone = f"group_id={number - 1}"
                bridge.switch.ofctl("-O", "OpenFlow15", "del-groups", "br0", gone)


@pytest.mark.parametrize("kind", [None, *KINDS])
def test_a_flow_that_repeats_packets(bridge: Bridge, kind: str | None) -> None:
    """The mirror is given back for that flow, by its name, and offloaded when it is gone."""
    switch, log = bridge.switch, bridge.log
    flow = repeating(1, switch.ofport(bridge.a))
    with contextlib.ExitStack() as stack:
        if kind is not None:
            stack.enter_context(Rewriter(switch, KINDS[kind](), RATE, bundle=True))
        since = time.time()
        install(switch, [flow])
        row = log.wait_row("m1", since, lambda row: REASON_KEY in row.external_ids)
        assert "flow table=65,priority=200," in row.external_ids[REASON_KEY]
        row = log.wait_row("m1", since, lambda row: row.settled and not row.offloaded)
        since = time.time()
        switch.ofctl("--strict", "del-flows", "br0", flow.partition(",actions=")[0])
        log.wait_row("m1", since, lambda row: row.settled and row.offloaded)


def test_a_bucket_that_repeats_packets(bridge: Bridge) -> None:
    """The reason names a flow that uses the group."""
    switch, log, port = bridge.switch, bridge.log, bridge.switch.ofport(bridge.a)
    bucket = f"bucket=actions=output:{port}"
    since = time.time()
    switch.ofctl("-O", "OpenFlow15", "mod-group", "br0", f"group_id=1,type=all,{bucket},{bucket}")
    row = log.wait_row("m1", since, lambda row: row.settled and not row.offloaded)
    assert "flow table=10,priority=60," in row.external_ids[REASON_KEY]
    since = time.time()
    switch.ofctl("-O", "OpenFlow15", "mod-group", "br0", groups()[1])
    log.wait_row("m1", since, lambda row: row.settled and row.offloaded)
