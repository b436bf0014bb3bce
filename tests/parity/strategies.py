"""Topologies, mirrors and frames made up by hypothesis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hypothesis import strategies as st

from ovs_ebpf_tap.lab.frames import (
    BROADCAST,
    ETH_8021AD,
    ETH_IPV4,
    IP_UDP,
    Address,
    Tag,
    Tags,
    ethernet,
    ipv4,
    udp,
)
from parity.case import EXPERIMENTAL, GROUP, NOBODY, Case, CaseMirror, CasePort, Sent, station

PORTS = {name: CasePort() for name in "abcd"} | {"i": CasePort("internal")}
"""The ports that there are; an example uses some of them."""

VLANS = (10, 20, 30)

TAGS: Sequence[Tags] = (
    (),
    (10,),
    (20,),
    (30,),
    (0,),
    (Tag(0, pcp=5),),
    (Tag(10, pcp=3),),
    (Tag(20, dei=1),),
    (10, 20),
    (Tag(10, tpid=ETH_8021AD), 20),
    (Tag(20, tpid=ETH_8021AD),),
    (4095,),
)

DESTINATIONS = {
    "broadcast": Address(BROADCAST, "255.255.255.255"),
    "group": GROUP,
    "nobody": NOBODY,
    "reserved": Address("01:80:c2:00:00:02", "224.0.0.2"),
}
"""Where frames go, besides the machines at the ports."""


CHANGES = (
    "dec_ttl",
    "mod_dl_src:02:00:00:00:00:97",
    "mod_dl_dst:02:00:00:00:00:98",
    "mod_dl_dst:02:00:00:00:00:99",
    "mod_nw_tos:16",
    "mod_nw_src:10.9.9.9",
    "mod_tp_dst:99",
    "mod_vlan_vid:20",
    "strip_vlan",
    "load:1->NXM_NX_REG0[]",
    "set_field:5->tun_id",
)
"""Actions between outputs."""


@dataclass(frozen=True)
class Frame:
    """A frame to be made: `length` is in bytes behind the tags' end, `count` how often it is sent.

    `to` is one of DESTINATIONS or the machine at a port, which is known with `to_tags`.
    """

    to: str
    tags: Tags = ()
    to_tags: Tags = ()
    length: int = 60
    ip: bool = False
    count: int = 1


@dataclass(frozen=True)
class Example:
    """A case without addresses: each time it is played it gets others."""

    ports: dict[str, CasePort]
    mirrors: tuple[CaseMirror, ...]
    sent: tuple[tuple[str, tuple[Frame, ...]], ...]
    flows: tuple[str, ...] = ()
    """If any, what is due is worked out from what passes the ports."""

    def case(self, serial: int) -> Case:
        """The case, with addresses of its own."""
        sent = [
            (name, [data for each in frames for data in _make(name, each, serial)])
            for name, frames in self.sent
        ]
        return Case(
            "generated",
            self.ports,
            self.mirrors,
            sent,
            flows=self.flows,
            modifies=bool(self.flows),
            learn=self._learn(serial),
        )

    def _learn(self, serial: int) -> list[Sent]:
        """Who is sent to has to be known first: learning meanwhile would be a race."""
        known = {
            (frame.to, frame.to_tags)
            for _, frames in self.sent
            for frame in frames
            if frame.to in self.ports
        }
        frames: dict[str, list[bytes]] = {}
        for name, tags in sorted(known, key=repr):
            source = station(name, tags, serial).mac
            frames.setdefault(name, []).append(ethernet(BROADCAST, source, 0x88B6, b"", tags))
        return list(frames.items())


def _make(name: str, frame: Frame, serial: int) -> list[bytes]:
    source = station(name, frame.tags, serial)
    known = DESTINATIONS.get(frame.to)
    target = station(frame.to, frame.to_tags, serial) if known is None else known
    payload = f"{name} {frame.to} ".encode().ljust(frame.length, b"x")
    if frame.ip:
        segment = udp(source.ip, target.ip, 9, 9, payload)
        packet = ipv4(source.ip, target.ip, IP_UDP, segment)
        data = ethernet(target.mac, source.mac, ETH_IPV4, packet, frame.tags)
    else:
        data = ethernet(target.mac, source.mac, EXPERIMENTAL, payload, frame.tags)
    return [data] * frame.count


_vlan = st.sampled_from(VLANS)
_vlans = st.lists(_vlan, max_size=2, unique=True).map(lambda each: tuple(sorted(each)))
_trunks = st.lists(st.sampled_from((0, *VLANS)), max_size=2, unique=True).map(
    lambda each: tuple(sorted(each))
)

_common = st.one_of(
    st.just(CasePort()),
    st.builds(CasePort, tag=_vlan),
    st.builds(CasePort, trunks=_trunks),
    st.builds(
        CasePort,
        tag=_vlan,
        trunks=_trunks,
        vlan_mode=st.sampled_from(("native-tagged", "native-untagged")),
    ),
)

_rare = st.one_of(
    st.builds(
        CasePort,
        tag=_vlan,
        vlan_mode=st.just("dot1q-tunnel"),
        cvlans=_trunks,
        qinq_ethtype=st.sampled_from((None, "802.1q")),
    ),
    st.builds(
        CasePort,
        tag=st.none() | _vlan,
        priority_tags=st.sampled_from(("if-nonzero", "always")),
    ),
)

_rarely = st.integers(0, 9).map(lambda number: number == 9)

# Mostly what is offloaded: much of the rest is left to OVS.
_settings = _rarely.flatmap(lambda rare: _rare if rare else _common)


@st.composite
def _ports(draw: st.DrawFn) -> dict[str, CasePort]:
    names = draw(st.lists(st.sampled_from(sorted(PORTS)), min_size=2, max_size=5, unique=True))
    protected = draw(st.sets(st.sampled_from(names), max_size=2)) if draw(_rarely) else set()
    return {
        name: replace(draw(_settings), kind=PORTS[name].kind, protected=name in protected)
        for name in sorted(names)
    }


@st.composite
def _mirror(draw: st.DrawFn, names: Sequence[str]) -> CaseMirror:
    output = draw(st.sampled_from(names))
    stray = draw(_rarely)
    others = [name for name in names if stray or name != output]
    src = draw(st.lists(st.sampled_from(others), max_size=3, unique=True))
    nothing = draw(_rarely)
    least = 0 if src or nothing else 1
    dst = draw(st.lists(st.sampled_from(others), min_size=least, max_size=3, unique=True))
    into_vlan = draw(_rarely)
    return CaseMirror(
        src=" ".join(src),
        dst=" ".join(dst),
        select_all=draw(_rarely),
        output=None if into_vlan else output,
        output_vlan=draw(_vlan) if into_vlan else None,
        select_vlan=draw(st.one_of(st.just(()), st.just(()), _vlans)),
        snaplen=draw(st.sampled_from((None, None, None, None, 64, 200, 1000))),
        native=draw(_rarely),
    )


@st.composite
def _frame(draw: st.DrawFn, names: Sequence[str], tags: Sequence[Tags]) -> Frame:
    to = draw(st.sampled_from((*DESTINATIONS, *names)))
    return Frame(
        to,
        tags=draw(st.one_of(st.sampled_from(TAGS[:4]), st.sampled_from(tags))),
        to_tags=draw(st.sampled_from(TAGS[:4])) if to in names else (),
        length=draw(st.sampled_from((50, 0, 46, 60, 300, 1200))),
        ip=draw(st.booleans()),
        count=draw(st.sampled_from((1, 1, 1, 2, 5))),
    )


@st.composite
def examples(draw: st.DrawFn) -> Example:
    """2 to 5 ports, 1 to 3 mirrors, and some 5 to 20 frames."""
    ports = draw(_ports())
    names = sorted(ports)
    mirrors = draw(st.lists(_mirror(names), min_size=1, max_size=3))
    outputs = {mirror.output for mirror in mirrors}
    # What arrives on an output port is dropped, which one example in ten is enough for.
    stray = draw(_rarely)
    senders = [name for name in names if stray or name not in outputs] or names
    # What loses the first of two tags when it leaves looks as if it had had the other only.
    loses = any(port.vlan_mode == "native-untagged" for port in ports.values())
    tags = [each for each in TAGS if len(each) < 2] if loses else TAGS
    # Open vSwitch copies VLAN 4095 of parked mirrors, whatever VLANs they select.
    if any(mirror.select_vlan for mirror in mirrors):
        tags = [each for each in tags if each != (4095,)]
    batch = st.lists(_frame(names, tags), min_size=3, max_size=6).map(tuple)
    sent = draw(
        st.lists(st.tuples(st.sampled_from(senders), batch), min_size=2, max_size=4).map(tuple)
    )
    return Example(ports, tuple(mirrors), sent)


@st.composite
def modifying_examples(draw: st.DrawFn) -> Example:
    """Some ports without VLAN settings, whose IP packets flows change on their way to others."""
    names = draw(st.lists(st.sampled_from("abcd"), min_size=3, max_size=4, unique=True).map(sorted))
    *senders, output = names
    some = st.lists(st.sampled_from(senders), max_size=3, unique=True).map(" ".join)
    mirrors = st.builds(
        CaseMirror,
        src=some,
        dst=some,
        output=st.just(output),
        select_vlan=st.one_of(st.just(()), st.just(()), _vlans),
    )
    batch = st.lists(_frame(senders, TAGS[:4]), min_size=3, max_size=6).map(tuple)
    return Example(
        {name: PORTS[name] for name in names},
        draw(st.lists(mirrors, min_size=1, max_size=2).map(tuple)),
        tuple((name, draw(batch)) for name in senders),
        (*(draw(_flow(name, senders)) for name in senders), "priority=0,actions=NORMAL"),
    )


@st.composite
def _flow(draw: st.DrawFn, source: str, ports: Sequence[str]) -> str:
    """To each port at most once, with changes before any of them."""
    actions = []
    for port in draw(st.permutations(ports)):
        actions += draw(st.lists(st.sampled_from(CHANGES), max_size=2))
        if draw(st.booleans()):
            actions.append("in_port" if port == source else f"output:{{{port}}}")
    return f"priority=9,in_port={{{source}}},udp,actions={','.join(actions) or 'drop'}"
