"""What becomes of bridges whose management sockets answer well, badly, or not at all."""

from __future__ import annotations

import contextlib
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import ovs.poller
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from flow_traits import traits_in
from ovs_ebpf_tap.lab.waiting import wait_for
from ovs_ebpf_tap.model.flow import Flow, FlowName, Group, Known, Output, Pipeline, ToGroup
from ovs_ebpf_tap.model.flow_traits import FlowTraits, PortFlags
from ovs_ebpf_tap.model.tunnel import GeneveOption
from ovs_ebpf_tap.observe import flow_monitor, ofp, openflow_channel, port_flags
from ovs_ebpf_tap.observe.flow_tables import FlowTables

ALL_VERSIONS = ofp.message(ofp.OF15, ofp.HELLO, 1)
PUSH_VLAN = bytes.fromhex("00040010000000000011000881000000")
OUTPUT = bytes.fromhex("000400180000000000000010000000010000000000000000")
OUTPUT_TO_1 = OUTPUT[8:]
GROUP_7 = bytes.fromhex("00040010000000000016000800000007")


class OpenFlowPeer:
    """What listens where a bridge's management socket is expected."""

    def __init__(self, run_dir: Path, bridge: str = "br0") -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(run_dir / f"{bridge}.mgmt"))
        self._listener.listen()
        self._listener.setblocking(False)
        self.connections: list[socket.socket] = []

    def accept(self) -> int:
        """Takes new connections; returns how many there were."""
        before = len(self.connections)
        with contextlib.suppress(BlockingIOError):
            while True:
                connection, _ = self._listener.accept()
                connection.setblocking(False)
                self.connections.append(connection)
        return len(self.connections) - before

    def received(self, connection: socket.socket) -> list[tuple[int, int, int, bytes]]:
        """The messages that have arrived: version, type, transaction id and body."""
        data = b""
        with contextlib.suppress(BlockingIOError):
            while chunk := connection.recv(65536):
                data += chunk
        messages = []
        while data:
            version, kind, length, xid = ofp.HEADER.unpack_from(data)
            messages.append((version, kind, xid, data[ofp.HEADER.size : length]))
            data = data[length:]
        return messages

    def closed(self, connection: socket.socket) -> bool:
        """Whether the other side has closed the connection; what it sent is passed over."""
        try:
            while connection.recv(65536):
                pass
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True
        return True

    def close(self) -> None:
        for each in (self._listener, *self.connections):
            each.close()


@contextlib.contextmanager
def watched(bridge: str = "br0") -> Iterator[tuple[FlowTables, OpenFlowPeer]]:
    """Watches one bridge; the peer has two connections, that for flows first."""
    with tempfile.TemporaryDirectory() as name:
        tables, peer = FlowTables(Path(name)), OpenFlowPeer(Path(name), bridge)
        try:
            tables.watch([bridge])
            accepted = 0
            for _ in range(20):  # One that is kept from its CPU leaves some to the next time.
                assert not tables.run()
                accepted += peer.accept()
                if accepted == 2:
                    break
            assert accepted == 2
            yield tables, peer
        finally:
            tables.close()
            peer.close()


def multipart(kind: int, content: bytes, more: bool = False, version: int = ofp.OF15) -> bytes:
    return ofp.message(version, 19, 1, struct.pack("!HH4x", kind, more) + content)


def flow(number: int, instructions: bytes = b"", event: int = 0) -> bytes:
    match = struct.pack("!HHI", 1, 8, number << 9)  # A field without a value.
    length = 24 + len(match) + len(instructions)
    return struct.pack("!HHBBHHH4xQ", length, event, 0, 0, 0, 0, 1, 0) + match + instructions


def flows(*updates: bytes, more: bool = False) -> bytes:
    return multipart(ofp.FLOW_MONITOR, b"".join(updates), more)


def port_10(name: str, config: int) -> bytes:
    return struct.pack("!H6s16sI20x", 1, bytes(6), name.encode(), config)


def tlv_table_10(*options: GeneveOption) -> bytes:
    maps = b"".join(struct.pack("!HBBHxx", *each, n) for n, each in enumerate(options))
    return ofp.message(ofp.OF10, ofp.EXPERIMENTER, 1, struct.pack("!II16x", 0x2320, 26) + maps)


def ports_10(*ports: bytes, options: Sequence[GeneveOption] = ()) -> bytes:
    return tlv_table_10(*options) + ofp.message(
        ofp.OF10, 17, 1, struct.pack("!HH", ofp.PORT_DESC, 0) + b"".join(ports)
    )


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short waits, and a back-off longer than a test."""
    monkeypatch.setattr(openflow_channel, "_RECONNECT", 0.02)
    monkeypatch.setattr(openflow_channel, "_ANSWER", 0.05)
    monkeypatch.setattr(port_flags, "_POLL", 0.01)


def until(tables: FlowTables, condition: Callable[[], object], what: str) -> None:
    def look() -> object:
        tables.run()
        return condition()

    wait_for(look, seconds=2, what=what)


def test_flows_from_first_to_last() -> None:
    with watched() as (tables, peer):
        connection, _ = peer.connections
        connection.sendall(ALL_VERSIONS)
        tables.run()
        hello, *requests = peer.received(connection)
        assert hello[:2] == (ofp.OF15, ofp.HELLO)
        assert [kind for _, kind, _, _ in requests] == [28, 18]
        assert struct.unpack_from("!H", requests[1][3]) == (ofp.FLOW_MONITOR,)

        connection.sendall(flows(flow(1), flow(2, OUTPUT), more=True))
        assert not tables.run()
        assert traits_in(tables) == {}, "not all of them were seen"
        connection.sendall(flows(flow(3)))
        tables.run()
        assert traits_in(tables) == {"br0": FlowTraits(outputs=True)}

        def after(*updates: bytes) -> FlowTraits:
            connection.sendall(flows(*updates))
            tables.run()
            return traits_in(tables)["br0"]

        both = FlowTraits(modifies=True, outputs=True)
        assert after(flow(4, PUSH_VLAN, event=1)) == both
        assert after(flow(5, PUSH_VLAN, event=1)) == both
        assert after(flow(4, event=2)) == both
        assert after(flow(5, event=3)) == FlowTraits(outputs=True)
        assert after(flow(2, event=2), flow(9, event=2)) == FlowTraits()
        assert not tables.run()


def group(number: int, *buckets: bytes) -> bytes:
    """In OpenFlow 1.5, of type all."""
    content = b"".join(struct.pack("!HHI", 8 + len(each), len(each), 0) + each for each in buckets)
    head = struct.pack("!HBxIH6x", 16 + len(content), 0, number, len(content))
    return head + content


def test_pipelines_and_their_versions() -> None:
    with watched() as (tables, peer):
        connection, _ = peer.connections
        connection.sendall(ALL_VERSIONS + flows(flow(1, OUTPUT), flow(2, OUTPUT), more=True))
        tables.run()
        assert tables.versions == {}
        connection.sendall(flows())
        tables.run()
        before, version = tables.pipeline("br0"), tables.versions["br0"]
        output = Flow(0, Known(), (Output(1),), priority=1)
        assert before == Pipeline({output: FlowName(0, 1, 0)})

        connection.sendall(flows(flow(1, event=2), flow(3, OUTPUT, event=1)))
        tables.run()
        assert tables.versions["br0"] == version
        assert tables.pipeline("br0").flows.keys() == before.flows.keys()

        connection.sendall(flows(flow(4, PUSH_VLAN, event=1)))
        tables.run()
        assert tables.versions["br0"] > version
        assert len(tables.pipeline("br0").flows) == 2
        assert list(before) == [output], "what was handed out changes"


def blocked(tables: FlowTables) -> float:
    """Seconds until the poller wakes up, if that is before 0.2 s."""
    poller = ovs.poller.Poller()
    tables.wait(poller)
    poller.timer_wait(200)
    began = time.monotonic()
    poller.block()
    return time.monotonic() - began


def test_many_changes_wake_up_the_loop_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openflow_channel, "_REST", 10.0)
    with watched() as (tables, peer):
        connection, _ = peer.connections
        connection.sendall(ALL_VERSIONS)
        tables.run()
        connection.sendall(flows(flow(1)))
        blocked(tables)
        tables.run()
        connection.sendall(flows(flow(2, event=1)))
        assert blocked(tables) >= 0.19


class GroupPeer:
    """A peer that is asked for groups."""

    def __init__(self, tables: FlowTables, peer: OpenFlowPeer) -> None:
        self._tables, self._peer = tables, peer
        self._connection = peer.connections[0]
        self.send(ALL_VERSIONS)
        self.asked()

    def send(self, message: bytes) -> None:
        """Sends it, and has it taken in."""
        self._connection.sendall(message)
        self._tables.run()

    def reply(self, *content: bytes, more: bool = False) -> None:
        """Answers with groups."""
        self.send(multipart(ofp.GROUP_DESC, b"".join(content), more))

    def asked(self) -> int:
        """How often it was asked since the last time."""
        received = self._peer.received(self._connection)
        kinds = (struct.unpack_from("!H", body)[0] for _, kind, _, body in received if kind == 18)
        return list(kinds).count(ofp.GROUP_DESC)

    @property
    def groups(self) -> Mapping[int, Group]:
        """Those that are known."""
        return self._tables.pipeline("br0").groups


GROUP_CHANGED = ofp.message(ofp.OF15, 32, 0)


def test_groups_are_looked_at_once_flows_use_them() -> None:
    with watched() as (tables, peer):
        groups = GroupPeer(tables, peer)
        groups.send(flows(flow(1, OUTPUT)) + GROUP_CHANGED)
        assert not groups.asked(), "no flow uses a group"

        before = tables.versions["br0"]
        groups.send(flows(flow(2, GROUP_7, event=1)))
        assert groups.groups == {}, "a group that is not known yet is none"
        assert tables.versions["br0"] > before
        assert groups.asked() == 1
        # 7 uses 8, which nothing is known of.
        groups.reply(group(7, OUTPUT_TO_1, struct.pack("!HHI", 22, 8, 8)))
        assert groups.groups == {7: Group(((Output(1),), (ToGroup(8),)))}

        groups.send(flows(flow(3, GROUP_7, event=1)))
        assert not groups.asked(), "all groups are known"
        groups.send(flows(flow(2, event=2), flow(3, event=2)) + GROUP_CHANGED)
        assert not groups.asked(), "no flow uses a group any more"


def test_groups_are_looked_at_when_one_was_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_monitor, "_GROUPS_SHARE", 1e9)
    with watched() as (tables, peer):
        groups = GroupPeer(tables, peer)
        groups.send(flows(flow(1, GROUP_7)))
        assert tables.versions == {}
        groups.reply(group(7))
        version = tables.versions["br0"]
        groups.asked()

        groups.send(GROUP_CHANGED + GROUP_CHANGED)
        assert groups.asked() == 1
        groups.reply(more=True)
        groups.reply(group(7))
        assert tables.versions["br0"] == version
        assert tables.repeating("br0") < version

        groups.send(GROUP_CHANGED)
        groups.reply(group(7, OUTPUT_TO_1, OUTPUT_TO_1))
        assert groups.groups == {7: Group(((Output(1),), (Output(1),)))}
        assert tables.versions["br0"] == tables.repeating("br0") > version
        assert groups.asked() == 1

        groups.send(GROUP_CHANGED)
        assert groups.asked() == 1
        groups.send(GROUP_CHANGED + multipart(ofp.GROUP_DESC, group(7)))
        assert not groups.asked(), "what was told before the answer is in it"
        groups.send(GROUP_CHANGED)
        groups.asked()
        groups.send(multipart(ofp.GROUP_DESC, group(7)) + GROUP_CHANGED)
        assert groups.asked() == 1, "it has changed after the answer"


def test_groups_that_keep_changing_are_looked_at_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flow_monitor, "_GROUPS_SHARE", 1e-9)
    with watched() as (tables, peer):
        groups = GroupPeer(tables, peer)
        groups.send(flows(flow(1, GROUP_7)))
        groups.reply(group(7))
        groups.asked()
        groups.send(GROUP_CHANGED)
        assert not groups.asked()


def test_ports_are_looked_at_again_and_again(quick: None) -> None:
    with watched() as (tables, peer):
        _, connection = peer.connections
        connection.sendall(ALL_VERSIONS)
        tables.run()
        received = peer.received(connection)
        assert [version for version, *_ in received] == [ofp.OF10] * 4
        flags = {
            "a": ofp.NO_RECEIVE,
            "b": ofp.NO_RECEIVE_STP | ofp.NO_FORWARD,
            "c": 0x53,
        }
        connection.sendall(ports_10(*[port_10(*each) for each in flags.items()]))
        assert tables.run()
        expected = PortFlags(frozenset("a"), frozenset("b"), frozenset("b"))
        assert tables.port_flags == {"br0": expected}

        until(tables, lambda: peer.received(connection), "the next look")
        connection.sendall(ports_10(port_10("a", 0)))
        until(tables, lambda: tables.port_flags == {"br0": PortFlags()}, "flags that are gone")

        options = GeneveOption(0x102, 0x80, 4), GeneveOption(0xFFFF, 1, 124)
        until(tables, lambda: peer.received(connection), "the next look")
        connection.sendall(ports_10(port_10("a", 0), options=options))
        expected = PortFlags(geneve_options=frozenset(options))
        until(tables, lambda: tables.port_flags == {"br0": expected}, "the options")


def test_a_bridge_without_openflow_1_0_is_asked_in_a_later_version() -> None:
    with watched() as (tables, peer):
        bitmap = struct.pack("!HHI", 1, 8, 1 << ofp.OF13)
        for connection in peer.connections:
            connection.sendall(ofp.message(ofp.OF13, ofp.HELLO, 1, bitmap))
        tables.run()
        for connection in peer.connections:
            assert {each[0] for each in peer.received(connection)} == {ofp.OF13}


def test_a_bridge_with_openflow_1_0_alone_has_no_traits() -> None:
    with watched() as (tables, peer):
        for connection in peer.connections:
            connection.sendall(ofp.message(ofp.OF10, ofp.HELLO, 1))
        tables.run()
        for_flows, for_ports = peer.connections
        assert peer.closed(for_flows)
        for_ports.sendall(ports_10())
        tables.run()
        assert tables.port_flags == {"br0": PortFlags()}
        assert traits_in(tables) == {}


def test_a_bridge_that_may_speak_another_version_now_is_asked_soon() -> None:
    """Not a minute later."""
    with watched() as (tables, peer):
        for_flows, _ = peer.connections
        for_flows.sendall(ofp.message(ofp.OF10, ofp.HELLO, 1))
        tables.run()
        assert peer.closed(for_flows)
        tables.run()
        assert peer.accept() == 0
        tables.retry("br0")
        tables.retry("br1")
        tables.run()
        assert peer.accept() == 1
        peer.connections[-1].sendall(ALL_VERSIONS + flows(flow(1)))
        until(tables, lambda: traits_in(tables) == {"br0": FlowTraits()}, "its flows")


def test_a_refusal_to_monitor_flows_is_final(quick: None) -> None:
    with watched() as (tables, peer):
        connection, _ = peer.connections
        connection.sendall(ALL_VERSIONS)
        tables.run()
        peer.received(connection)
        connection.sendall(ofp.message(ofp.OF15, ofp.ERROR, 1, bytes(4)))
        time.sleep(0.1)  # Longer than an answer may take.
        tables.run()
        assert not peer.received(connection)
        assert not peer.closed(connection)
        assert traits_in(tables) == {}


def test_echo_is_answered() -> None:
    with watched() as (tables, peer):
        connection, _ = peer.connections
        connection.sendall(ALL_VERSIONS + ofp.message(ofp.OF15, ofp.ECHO_REQUEST, 77, b"ping"))
        tables.run()
        assert (ofp.OF15, ofp.ECHO_REPLY, 77, b"ping") in peer.received(connection)


def test_messages_arrive_byte_by_byte() -> None:
    with watched() as (tables, peer):
        connection, _ = peer.connections
        for byte in ALL_VERSIONS + flows(flow(1, OUTPUT), flow(2, PUSH_VLAN)):
            connection.sendall(bytes([byte]))
            tables.run()
        assert traits_in(tables) == {"br0": FlowTraits(modifies=True, outputs=True)}


def test_what_is_known_goes_with_the_connection_and_comes_again(quick: None) -> None:
    with watched() as (tables, peer):
        connection, _ = peer.connections
        connection.sendall(ALL_VERSIONS + flows(flow(1, OUTPUT)))
        tables.run()
        assert traits_in(tables)
        connection.close()
        tables.run()
        assert traits_in(tables) == {}
        until(tables, peer.accept, "another connection")
        peer.connections[-1].sendall(ALL_VERSIONS + flows(flow(1)))
        until(tables, lambda: traits_in(tables) == {"br0": FlowTraits()}, "flows seen anew")


def test_only_what_is_watched_is_known() -> None:
    with watched() as (tables, peer):
        connection, _ = peer.connections
        connection.sendall(ALL_VERSIONS + flows())
        tables.run()
        tables.watch(["br0", "br1", "br0"])
        assert traits_in(tables)
        tables.watch(["br1", "../br0"])
        assert all(peer.closed(each) for each in peer.connections)
        tables.run()
        assert traits_in(tables) == {}
        assert peer.accept() == 0


def test_nobody_listens(tmp_path: Path, quick: None) -> None:
    tables = FlowTables(tmp_path)
    tables.watch(["br0"])
    assert not tables.run()
    poller = ovs.poller.Poller()
    tables.wait(poller)
    started = time.monotonic()
    poller.block()
    assert time.monotonic() - started < 1
    peer = OpenFlowPeer(tmp_path)
    until(tables, peer.accept, "a connection to who listens now")
    tables.close()
    peer.close()


def backed_off(tables: FlowTables, peer: OpenFlowPeer) -> bool:
    """Whether both connections are closed, and are not made again at once."""
    until(tables, lambda: all(map(peer.closed, peer.connections)), "connections that are closed")
    assert traits_in(tables) == {}
    assert tables.port_flags == {}
    time.sleep(0.06)
    return not tables.run() and peer.accept() == 0


def test_silence(quick: None) -> None:
    with watched() as (tables, peer):
        assert backed_off(tables, peer)


def test_a_hello_and_then_silence(quick: None) -> None:
    with watched() as (tables, peer):
        for connection in peer.connections:
            connection.sendall(ALL_VERSIONS)
        assert backed_off(tables, peer)


@pytest.mark.parametrize(
    "rubbish",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        ofp.message(ofp.OF15, ofp.ERROR, 0, bytes(4)),
        ofp.HEADER.pack(ofp.OF15, ofp.HELLO, 3, 0),
        ALL_VERSIONS + ALL_VERSIONS[:1] + b"\0\0\4\0\0\0\0",
        ALL_VERSIONS + ofp.message(ofp.OF14, 19, 0, bytes(8)),
        ALL_VERSIONS + ofp.message(ofp.OF15, 19, 0) + ofp.message(ofp.OF10, 17, 0),
    ],
)
def test_rubbish(quick: None, rubbish: bytes) -> None:
    with watched() as (tables, peer):
        for connection in peer.connections:
            connection.sendall(rubbish)
        assert backed_off(tables, peer)


def test_a_peer_that_closes_is_tried_less_and_less(quick: None) -> None:
    with watched() as (tables, peer):
        times: list[float] = []
        while len(times) < 4:
            peer.connections.pop(0).close()
            peer.connections.clear()
            until(tables, peer.accept, "the next try")
            times.append(time.monotonic())
        assert times[3] - times[2] > 1.5 * (times[1] - times[0])


def test_a_peer_that_asks_without_reading_is_left() -> None:
    with watched() as (tables, peer):
        connection, _ = peer.connections
        connection.setblocking(True)
        connection.settimeout(0.01)
        flood = ofp.message(ofp.OF15, ofp.ECHO_REQUEST, 1, bytes(16000)) * 4
        connection.sendall(ALL_VERSIONS)
        with contextlib.suppress(ConnectionError):
            for _ in range(200):
                with contextlib.suppress(TimeoutError):
                    connection.sendall(flood)
                tables.run()
        connection.setblocking(False)
        assert peer.closed(connection)


@settings(max_examples=examples(60))
@given(st.lists(st.binary(max_size=300), max_size=4), st.booleans(), st.booleans())
def test_any_bytes(chunks: list[bytes], greet: bool, close: bool) -> None:
    with watched() as (tables, peer):
        for connection in peer.connections:
            with contextlib.suppress(ConnectionError):
                if greet:
                    connection.sendall(ALL_VERSIONS)
                for chunk in chunks:
                    connection.sendall(chunk)
                    tables.run()
            if close:
                connection.close()
        tables.run()
        tables.wait(ovs.poller.Poller())


def test_many_flows_are_taken_in_by_and_by() -> None:
    """However many flows wait, `run` returns soon, and holds little of what has arrived."""
    with watched() as (tables, peer):
        connection, _ = peer.connections
        chunk = 1000
        waiting = bytearray(ALL_VERSIONS)
        for start in range(0, 20_000, chunk):
            some = [flow(number, OUTPUT) for number in range(start, start + chunk)]
            waiting += flows(*some, more=start + chunk < 20_000)
        runs = 0
        while not traits_in(tables):
            with contextlib.suppress(BlockingIOError):
                del waiting[: connection.send(waiting)]
            tables.run()
            held = sum(len(channel._input) for channel in tables._order)
            assert held <= openflow_channel.CHUNK + ofp.MAX_LENGTH
            runs += 1
            assert runs < 10_000
        assert not waiting
