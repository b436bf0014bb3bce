"""`Mirror.statistics` as a reader sees them: they never fall while a sidecar runs."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ovs_ebpf_tap.lab.capture import Capture
from ovs_ebpf_tap.lab.sidecar_process import SidecarProcess
from ovs_ebpf_tap.lab.switch import Switch
from ovs_ebpf_tap.lab.traffic import Stream
from ovs_ebpf_tap.lab.waiting import patience, wait_for
from talking import Trio, copies_of

OVS_WRITES = 5.5
"""Seconds in which ovs-vswitchd has written its own count: it does every 5."""

Count = tuple[int, int]


class StatisticsReader:
    """A connection that reads a mirror's statistics: packets and bytes."""

    def __init__(self, switch: Switch, mirror: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(switch.db.removeprefix("unix:"))
        select = {
            "op": "select",
            "table": "Mirror",
            "where": [["name", "==", mirror]],
            "columns": ["statistics"],
        }
        self._request = json.dumps(
            {"id": 0, "method": "transact", "params": ["Open_vSwitch", select]}
        ).encode()

    def close(self) -> None:
        self._socket.close()

    def read(self) -> Count:
        self._socket.sendall(self._request)
        data = b""
        while True:
            data += self._socket.recv(1 << 16)
            with contextlib.suppress(ValueError):
                columns = dict(json.loads(data)["result"][0]["rows"][0]["statistics"][1])
                return columns.get("tx_packets", 0), columns.get("tx_bytes", 0)


@dataclass
class Reader:
    """Reads ten times a second, and notes each fall.

    One that a second reading at once does not find any more is none: ovsdb-server may have answered
    between ovs-vswitchd's transaction and the one that waited for it.
    """

    row: StatisticsReader
    last: Count = (0, 0)
    falls: list[str] = field(default_factory=list)
    readings: int = 0
    phase: str = ""
    _stop: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        now = self.row.read()
        if any(n < m for n, m in zip(now, self.last, strict=True)):
            now = self.row.read()
        if any(n < m for n, m in zip(now, self.last, strict=True)):
            self.falls.append(f"{self.phase}: {self.last} to {now}")
        self.last = now
        self.readings += 1

    def run(self) -> None:
        while not self._stop.wait(0.1):
            self.look()

    @contextlib.contextmanager
    def reading(self, phase: str) -> Iterator[None]:
        self.phase = phase
        self._stop.clear()
        thread = threading.Thread(target=self.run)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()


def test_no_reader_sees_statistics_fall(
    switch: Switch, trio: Trio, tap: SidecarProcess, figure: Callable[[str], None]
) -> None:
    a, b, m = trio
    reader = Reader(StatisticsReader(switch, "m1"))
    tap.native("m1")
    with contextlib.closing(reader.row), Capture.of(m) as copies:
        with Stream(a, b, rate=200):
            with reader.reading("native"):
                time.sleep(OVS_WRITES)
            with reader.reading("offloaded"):
                tap.offload("m1")
                time.sleep(1)
            with reader.reading("given back"):
                tap.native("m1")
                time.sleep(OVS_WRITES)
            with reader.reading("offloaded again"):
                tap.offload("m1")
                time.sleep(1)
            tap.kill()
            time.sleep(OVS_WRITES)  # Now the row has OVS's own count.
            tap.start()
            with reader.reading("killed, and started"):
                time.sleep(1)
            with reader.reading("ovs-vswitchd restarted"):
                switch.restart_vswitchd()
                time.sleep(OVS_WRITES)
            with reader.reading("released"):
                assert tap.release("m1").returncode == 0
                time.sleep(OVS_WRITES)
        copies.wait_quiet()
        made = len(copies.frames())
    figure(f"{reader.readings} readings, {len(reader.falls)} falls; {reader.last[0]} of {made}")
    assert reader.falls == []
    # OVS has yet to write what it copied last.
    assert 0.8 * made <= reader.last[0] <= made


def test_what_ovs_writes_is_put_right_before_the_next_reading(
    switch: Switch, trio: Trio, tap: SidecarProcess, figure: Callable[[str], None]
) -> None:
    a, b, m = trio
    tap.wait_state("m1", "offloaded")
    assert copies_of(a, b, m, 7) == 1
    wait_for(lambda: switch.get("Mirror", "m1", "statistics:tx_packets") == "7", 7.0, "statistics")
    row = StatisticsReader(switch, "m1")
    readings, fell = 0, 0
    with contextlib.closing(row):
        end = time.monotonic() + OVS_WRITES
        while time.monotonic() < end:
            readings += 1
            if row.read()[0] != 7:
                fell += 1
                assert row.read()[0] == 7
    figure(f"{fell} of {readings} readings, as fast as can be, saw OVS's own count")


def test_totals_go_on_after_a_release_without_a_sidecar(switch: Switch, trio: Trio) -> None:
    a, b, m = trio
    with SidecarProcess(switch) as tap:
        tap.wait_state("m1", "offloaded")
        copies_of(a, b, m, 30)
        tap.kill()
        copies_of(a, b, m, 12)
        assert tap.status()[0]["packets"] == 42
        assert tap.release().returncode == 0
        assert tap.status()[0]["packets"] == 42
        copies_of(a, b, m, 5)
        tap.start()
        total = "statistics:tx_packets"
        wait_for(lambda: switch.get("Mirror", "m1", total) == "47", 12.0, "all copies counted")
        tap.offload("m1")
        copies_of(a, b, m, 3)
        assert tap.status()[0]["packets"] == 50
        wait_for(lambda: switch.get("Mirror", "m1", total) == "50", 7.0, "all copies counted")


def test_hooks_whose_row_is_gone_are_shown(switch: Switch, trio: Trio) -> None:
    a, b, m = trio
    with SidecarProcess(switch) as tap:
        tap.wait_state("m1", "offloaded")
        tap.kill()
        uuid = switch.get("Mirror", "m1", "_uuid")
        switch.remove_mirror("m1")
        assert copies_of(a, b, m, 5) == 1
        (row,) = tap.status()
        assert (row["bridge"], row["name"], row["uuid"]) == ("-", uuid, uuid)
        assert row["packets"] == 5
        assert len(row["hooks"]) == 2
        assert row["reason"] == (
            "its row is gone, and its hooks copy on: start the sidecar, or "
            "ovs-ebpf-tap release --all"
        )
        assert uuid in tap.run("status").stdout
        tap.start()
        wait_for(lambda: not tap.status(), patience(5), "no hooks")
        assert copies_of(a, b, m, 5) == 0
