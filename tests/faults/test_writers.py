"""Others write the Mirror rows, too: controllers in loops, and people at any moment."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from faults.controller import Controller, Journal, Loop, delete_keys, update
from faults.fault import RATE
from ovs_ebpf_tap.lab.capture import Capture
from ovs_ebpf_tap.lab.frames import udp_frame
from ovs_ebpf_tap.lab.sidecar_process import SidecarProcess
from ovs_ebpf_tap.lab.switch import Host, Switch
from ovs_ebpf_tap.lab.traffic import Stream
from ovs_ebpf_tap.lab.waiting import patience, wait_for

NONE: list[object] = ["set", []]
EMPTY: list[object] = ["map", []]


@dataclass
class WritersBench:
    """m1 copies what a and c send to m; somebody else writes the row."""

    switch: Switch
    tap: SidecarProcess
    a: Host
    b: Host
    c: Host
    m: Host
    n: Host
    controller: Controller

    def uuid(self, table: str, name: str) -> list[str]:
        return ["uuid", self.switch.get(table, name, "_uuid")]

    def journal(self) -> Journal:
        return Journal(self.switch.rundir / "conf.db")

    def vlans(self) -> set[int]:
        """`select_vlan` of the row."""
        text = self.switch.get("Mirror", "m1", "select_vlan").strip("[]")
        return {int(vlan) for vlan in text.split(",") if vlan}

    def wait_parked(self, kept: str) -> None:
        """Waits until the row is parked and keeps these VLANs."""

        def parked() -> bool:
            ids = self.tap.external_ids("m1")
            return self.vlans() == {4095} and ids.get("ebpf-tap-select-vlan") == kept

        wait_for(parked, 5, f"a parked row that keeps {kept!r}")
        self.tap.wait_settled("m1", "offloaded")

    def copies(self, tags: tuple[int, ...] = ()) -> int:
        """How often a frame of a running flow is copied to m."""
        frames = [udp_frame(self.a, self.b, b"%d" % n, tags=tags) for n in range(10)]
        with Capture.of(self.m) as capture:
            self.a.send(frames)
            capture.wait_quiet(0.2)
            counts = Counter(capture.frames())
        times = {counts[frame] for frame in frames}
        assert len(times) == 1, counts
        return times.pop()


@pytest.fixture
def bench(switch: Switch) -> Iterator[WritersBench]:
    a, b, c, m, n = (switch.add_host(name, with_ip=False) for name in "abcmn")
    switch.learn(a, b, c)
    switch.mirror("m1", src=[a], output=m)
    with SidecarProcess(switch) as tap, Controller(switch.db) as controller:
        tap.wait_state("m1", "offloaded")
        yield WritersBench(switch, tap, a, b, c, m, n, controller)
        assert "Traceback" not in tap.log()


class Watch:
    """Numbered frames from a to b, and how often each of them was copied to m and n together."""

    def __init__(self, bench: WritersBench) -> None:
        self._stream = Stream(bench.a, bench.b, rate=RATE)
        self._captures = [Capture.of(bench.m), Capture.of(bench.n)]

    def __enter__(self) -> Watch:
        for capture in self._captures:
            capture.start()
        self._stream.start()
        time.sleep(patience(0.2))
        return self

    def __exit__(self, *_: object) -> None:
        time.sleep(patience(0.2))
        self._stream.stop()
        for capture in self._captures:
            capture.wait_quiet()
            capture.stop()

    @property
    def counts(self) -> Counter[int]:
        """By the frames' numbers."""
        seen = (capture.sequences(self._stream.stream_id) for capture in self._captures)
        return Counter(number for numbers in seen for number in numbers)

    @property
    def missing(self) -> int:
        return self._stream.sent - len(self.counts)

    @property
    def extra(self) -> int:
        return self.counts.total() - len(self.counts)


# Controllers in loops.


def test_a_controller_that_writes_the_same_again_and_again(bench: WritersBench) -> None:
    """As ovn-controller does."""
    row = {
        "select_src_port": bench.uuid("Port", "a0"),
        "select_dst_port": NONE,
        "output_port": bench.uuid("Port", "m0"),
    }
    journal = bench.journal()
    write = update("Mirror", "m1", **row)
    with Watch(bench) as watch, Loop(lambda _: bench.controller.write(write), 0.01) as loop:
        time.sleep(patience(2))
    assert loop.count > 50
    assert journal.of_the_sidecar() == 0
    assert (watch.missing, watch.extra) == (0, 0)
    assert bench.tap.state("m1") == "offloaded"


def test_a_controller_that_changes_its_mind_again_and_again(bench: WritersBench) -> None:
    """Selected ports and the output change; no frame is copied twice, or not."""
    a, c = bench.uuid("Port", "a0"), bench.uuid("Port", "c0")
    sources = [a, ["set", [a, c]]]
    outputs = [bench.uuid("Port", "m0"), bench.uuid("Port", "n0")]

    def act(number: int) -> None:
        row = {"select_src_port": sources[number % 2], "output_port": outputs[number // 2 % 2]}
        bench.controller.write(update("Mirror", "m1", **row))

    journal = bench.journal()
    with Watch(bench) as watch, Loop(act, 0.02) as loop:
        time.sleep(patience(2))
    assert loop.count > 20
    assert journal.of_the_sidecar() == 0
    assert (watch.missing, watch.extra) == (0, 0)
    bench.tap.wait_state("m1", "offloaded")


FIGHTS: dict[str, dict[str, object]] = {
    "keys": {"external_ids": EMPTY},
    "vlans": {"select_vlan": NONE},
    "both": {"external_ids": EMPTY, "select_vlan": NONE},
    "parked": {"select_vlan": 4095, "external_ids": EMPTY},
}


@pytest.mark.parametrize("what", FIGHTS)
def test_a_controller_that_undoes_what_is_written(bench: WritersBench, what: str) -> None:
    """No loop of transactions: the mirror is left to Open vSwitch, which the log says once."""
    write = update("Mirror", "m1", **FIGHTS[what])
    journal = bench.journal()
    with Watch(bench) as watch, Loop(lambda _: bench.controller.write(write), 0.05) as loop:
        wait_for(lambda: "left alone" in bench.tap.log(), 15, "the sidecar giving in")
        time.sleep(patience(0.5))
        before = journal.of_the_sidecar()
        time.sleep(patience(3))
        later = journal.of_the_sidecar() - before
    assert loop.count > 40
    assert before <= 120
    assert later <= 3 * patience(3)  # That is a move a second, at worst.
    assert watch.missing == 0
    assert bench.tap.log().count("left alone") == 1
    bench.tap.wait_settled("m1", "native", 20)
    assert "another program" in str(bench.tap.reason("m1"))
    assert bench.vlans() == set()
    assert bench.copies() == 1


# Once, at any moment.


def test_keys_replaced_as_a_whole(bench: WritersBench) -> None:
    """What the row has lost, the running sidecar remembers."""
    bench.switch.vsctl("set", "Mirror", "m1", "select_vlan=10")
    bench.wait_parked("10")
    with Watch(bench) as watch:
        for ids in (EMPTY, ["map", [["whose", "mine"]]]):
            bench.controller.write(update("Mirror", "m1", external_ids=ids))
            bench.wait_parked("10")
    assert watch.counts.total() == 0
    bench.controller.write(delete_keys("m1", "ebpf-tap-select-vlan"))
    bench.wait_parked("10")
    assert (bench.copies((10,)), bench.copies()) == (1, 0)
    # And with the mode changed in the same transaction.
    native = ["map", [["ebpf-tap-mode", "native"]]]
    bench.controller.write(update("Mirror", "m1", external_ids=native))
    bench.tap.wait_settled("m1", "native")
    assert bench.vlans() == {10}
    assert (bench.copies((10,)), bench.copies()) == (1, 0)
    assert bench.tap.external_ids("m1").keys() == {
        "ebpf-tap-mode",
        "ebpf-tap-state",
        "ebpf-tap-reason",
        "ebpf-tap-counted",
    }


def test_given_back_by_hand(bench: WritersBench) -> None:
    """OVS's running flows do not notice by themselves."""
    native = ["map", [["ebpf-tap-mode", "native"]]]
    with Watch(bench) as watch:
        for _ in range(3):
            bench.controller.write(update("Mirror", "m1", external_ids=native, select_vlan=NONE))
            bench.tap.wait_settled("m1", "native")
            time.sleep(patience(0.3))
            bench.controller.write(update("Mirror", "m1", external_ids=EMPTY))
            bench.tap.wait_state("m1", "offloaded")
            time.sleep(patience(0.1))
    assert watch.missing == 0
    assert max(watch.counts.values()) <= 2
    assert bench.switch.get("Port", "m0", "protected") == "false"


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        (("set Mirror m1 select_vlan=30",), "30"),
        (("add Mirror m1 select_vlan 30",), "30,4095"),
        (("remove Mirror m1 select_vlan 4095",), ""),
        (("clear Mirror m1 select_vlan",), ""),
        (("set Mirror m1 select_vlan=4095",), "10,20"),
        (("clear Mirror m1 select_vlan", "set Mirror m1 select_vlan=4095"), "10,20"),
        (("remove Mirror m1 external_ids ebpf-tap-select-vlan",), "10,20"),
        (("remove Mirror m1 external_ids ebpf-tap-state",), "10,20"),
        (("clear Mirror m1 external_ids", "set Mirror m1 select_vlan=30"), "30"),
    ],
)
def test_what_is_wanted_of_vlans(
    changes: tuple[str, ...], kept: str, vlan_bench: WritersBench
) -> None:
    """`select_vlan` set to anything else than 4095 is what is wanted; the rest is ours."""
    bench = vlan_bench
    bench.switch.vsctl("set", "Mirror", "m1", "select_vlan=10,20")
    bench.wait_parked("10,20")
    bench.switch.vsctl(*" -- ".join(changes).split())
    bench.wait_parked(kept)


@pytest.fixture(scope="module")
def vlan_bench() -> Iterator[WritersBench]:
    """For many tests."""
    with Switch() as switch:
        switch.add_bridge()
        a, b, m = (switch.add_host(name, with_ip=False) for name in "abm")
        switch.mirror("m1", src=[a], output=m)
        with SidecarProcess(switch) as tap, Controller(switch.db) as controller:
            yield WritersBench(switch, tap, a, b, b, m, m, controller)


# The row itself.


def recreate(bench: WritersBench, **columns: object) -> None:
    """Deletes the row and creates one of the same name, in one transaction."""
    row = {
        "name": "m1",
        "select_src_port": bench.uuid("Port", "a0"),
        "output_port": bench.uuid("Port", "m0"),
        **columns,
    }
    old = bench.uuid("Mirror", "m1")
    mutations = [["mirrors", "delete", old], ["mirrors", "insert", ["named-uuid", "new"]]]
    bench.controller.write(
        {"op": "insert", "table": "Mirror", "row": row, "uuid-name": "new"},
        {"op": "mutate", "table": "Bridge", "where": [], "mutations": mutations},
    )


def test_deleted_and_created_at_once(bench: WritersBench) -> None:
    with Watch(bench) as watch:
        for _ in range(5):
            recreate(bench)
            bench.wait_parked("")
            time.sleep(patience(0.1))
        # With what a copy of the row has: it was parked.
        kept = ["map", [["ebpf-tap-select-vlan", ""]]]
        recreate(bench, select_vlan=4095, external_ids=kept)
        bench.wait_parked("")
    assert watch.missing == 0
    assert max(watch.counts.values()) <= 2
    assert bench.copies() == 1


def test_two_mirrors_of_one_name(bench: WritersBench) -> None:
    bench.switch.mirror("m1", src=[bench.c], output=bench.n)

    def states() -> list[tuple[str, bool]]:
        return [(row["state"], bool(row["hooks"])) for row in bench.tap.status()]

    wait_for(lambda: states() == [("offloaded", True)] * 2, 5, "two mirrors offloaded")
    with Watch(bench) as watch:
        time.sleep(patience(0.2))
    assert (watch.missing, watch.extra) == (0, 0)
    done = bench.tap.release("m1")
    assert (done.returncode, done.stdout) == (0, "m1 of br0: native\n" * 2)
    wait_for(lambda: states() == [("native", False)] * 2, 5, "two mirrors native")


def test_moved_to_another_bridge_and_back(bench: WritersBench) -> None:
    """There it is invalid: its ports are not on that bridge."""
    bench.switch.add_bridge("br1")
    mirror = bench.uuid("Mirror", "m1")

    def move(source: str, target: str) -> None:
        bench.controller.write(
            *(
                {
                    "op": "mutate",
                    "table": "Bridge",
                    "where": [["name", "==", bridge]],
                    "mutations": [["mirrors", mutator, mirror]],
                }
                for bridge, mutator in ((source, "delete"), (target, "insert"))
            )
        )

    for _ in range(2):
        move("br0", "br1")
        bench.tap.wait_settled("m1", "invalid")
        assert bench.vlans() == set()
        assert bench.copies() == 0
        move("br1", "br0")
        bench.wait_parked("")
        assert bench.copies() == 1
    # Taken off and put back at once is no change at all.
    journal = bench.journal()
    move("br0", "br0")
    time.sleep(patience(0.3))
    assert journal.of_the_sidecar() == 0
    assert all(
        bench.switch.get("Port", port, "protected") == "false" for port in ("a0", "m0", "br1")
    )


def test_two_sidecars_beside_one_database(bench: WritersBench) -> None:
    """The second ends before it writes anything."""
    journal = bench.journal()
    other = SidecarProcess(bench.switch)
    try:
        done = other.run("run")
    finally:
        other.close()
    assert done.returncode == 1
    assert "another ovs-ebpf-tap runs beside the database" in done.stderr
    assert journal.of_the_sidecar() == 0
    assert bench.copies() == 1
