"""How packets may come to leave through a port."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_ebpf_tap.decide.flow_graph import FlowGraph
from ovs_ebpf_tap.decide.flow_paths import port_paths, traits_of
from ovs_ebpf_tap.model.flow import (
    ALL_PORTS,
    ANY_PORT,
    ETH_TYPE,
    FLOOD,
    IN_PORT,
    IN_PORT_PORT,
    METADATA,
    NORMAL,
    SECOND_VLAN,
    TABLE,
    VLAN,
    VLAN_PRESENT,
    Action,
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
    register,
)
from ovs_ebpf_tap.model.flow_traits import FlowTraits, FollowedPort, PortPaths

REG5, REG6, REG14, REG15 = register(5), register(6), register(14), register(15)
P, Q, R = 1, 2, 3


def known(*fields: tuple[Bits, int]) -> Known:
    found = Known()
    for bits, value in fields:
        found = found.both(Known.of(bits, value))
    return found


def load(bits: Bits, value: int) -> Load:
    return Load(Known.of(bits, value))


def flow(table: int, match: Iterable[tuple[Bits, int]] = (), *actions: Action) -> Flow:
    return Flow(table, known(*match), actions)


def pipeline(*flows: Flow, groups: dict[int, Group] | None = None) -> Pipeline:
    names = {each: FlowName(each.table, 100 + i, 0) for i, each in enumerate(flows)}
    return Pipeline(names, groups or {})


def paths(given_: Pipeline, port: int = Q, *, reserved: bool = False) -> PortPaths:
    return port_paths(FlowGraph.of(given_), port, FollowedPort(reserved, vlans=True))


def arriving(*numbers: int) -> frozenset[Known]:
    return frozenset(Known.of(IN_PORT, number) for number in numbers)


OUT_Q = Output(Q)

REPEATING = {
    "looked up as from another port": [
        flow(0, [(IN_PORT, P)], Resubmit(1, other_port=True), OUT_Q),
        flow(1, [(IN_PORT, Q)], OUT_Q),
    ],
    "looked up, and looked up, as from another port": [
        flow(0, [(IN_PORT, P)], Resubmit(1, other_port=True), OUT_Q),
        flow(1, [(IN_PORT, 7)], Resubmit(2)),
        flow(2, [(IN_PORT, P)], OUT_Q),
    ],
    "back, as from another port": [
        flow(0, [(IN_PORT, Q)], Resubmit(1, other_port=True), Resubmit(1, other_port=True)),
        flow(1, [(IN_PORT, 7)], Output(IN_PORT_PORT)),
    ],
    "in the end, too": [flow(0, (), Write(OUT_Q, changes=False), Modify(), OUT_Q)],
    "changed in the end": [flow(0, (), Write(OUT_Q, changes=True))],
    "in the end, and in another table": [
        flow(0, (), Write(OUT_Q, changes=False), Resubmit(1)),
        flow(1, (), Modify(), OUT_Q),
    ],
    "twice": [flow(0, (), OUT_Q, OUT_Q)],
    "by the port it came from": [flow(0, (), Output(IN_PORT_PORT), load(IN_PORT, 0), OUT_Q)],
    "and by NORMAL": [flow(0, (), OUT_Q, Output(NORMAL))],
    "and by a flood": [flow(0, (), Output(FLOOD), OUT_Q)],
    "and by ALL": [flow(0, (), OUT_Q, Output(ALL_PORTS))],
    "NORMAL twice": [flow(0, (), Output(NORMAL), Output(NORMAL))],
    "and to any port": [flow(0, (), Output(ANY_PORT), OUT_Q)],
    "by a register": [flow(0, (), OUT_Q, load(REG5, Q), OutputField(REG5))],
    "by a register, as NORMAL": [flow(0, (), OUT_Q, load(REG5, 0xFFFA), OutputField(REG5))],
    "by a register, back": [
        flow(0, (), Output(IN_PORT_PORT), load(REG5, 0xFFF8), OutputField(REG5))
    ],
    "by a register, as TABLE": [
        flow(0, [(IN_PORT, P)], OUT_Q, load(REG5, 0xFFF9), load(IN_PORT, R), OutputField(REG5)),
        flow(0, [(IN_PORT, R)], OUT_Q),
    ],
    "by an unknown register": [flow(0, (), OUT_Q, Forget(REG5.mask), OutputField(REG5))],
    "in a table": [flow(0, (), Resubmit(1), OUT_Q), flow(1, (), OUT_Q)],
    "in a table twice": [flow(0, (), Resubmit(1), Resubmit(1)), flow(1, (), OUT_Q)],
    "in two tables": [
        flow(0, (), Resubmit(1), Resubmit(2)),
        flow(1, (), OUT_Q),
        flow(2, (), OUT_Q),
    ],
    "changed before": [flow(0, (), Modify(), OUT_Q, OUT_Q)],
    "changed in a table before": [flow(0, (), Resubmit(1), OUT_Q), flow(1, (), Modify(), OUT_Q)],
    "changed in a clone between": [flow(0, (), OUT_Q, Clone((Modify(),)), OUT_Q)],
    "perhaps changed between": [flow(0, (), OUT_Q, Modify(always=False), OUT_Q)],
    "in a clone": [flow(0, (), Clone((OUT_Q,)), OUT_Q)],
    "in a clone behind": [flow(0, (), OUT_Q, Clone((OUT_Q,)))],
    "in a clone before its change": [flow(0, (), Clone((OUT_Q, Modify())), OUT_Q)],
    "a register that a table may load": [
        flow(0, (), load(REG15, 9), OUT_Q, Resubmit(1), Resubmit(2)),
        flow(1, (), load(REG15, Q)),
        flow(2, [(REG15, Q)], OUT_Q),
    ],
    "a register that is moved": [
        flow(0, (), load(REG5, Q), OUT_Q, Move(REG5, REG15), Resubmit(2)),
        flow(2, [(REG15, Q)], OUT_Q),
    ],
}

ONCE = {
    "in the end": [flow(0, (), Write(OUT_Q, changes=False))],
    "once": [flow(0, (), OUT_Q, Output(R))],
    "changed between": [flow(0, (), OUT_Q, Modify(), OUT_Q)],
    "changed in a clone": [flow(0, (), OUT_Q, Clone((Modify(), OUT_Q)))],
    "changed in a clone before": [flow(0, (), Clone((Modify(), OUT_Q)), OUT_Q)],
    "changed in a clone's table": [
        flow(0, (), Clone((Resubmit(1),)), OUT_Q),
        flow(1, (), Modify(), OUT_Q),
    ],
    "a register that may not be TABLE": [
        flow(0, [(IN_PORT, P)], load(REG5, Q), Resubmit(1)),
        flow(0, [(IN_PORT, R)], load(REG5, R), Resubmit(1)),
        flow(1, (), OutputField(REG5)),
    ],
    "another register": [
        flow(0, (), load(REG15, Q), Resubmit(2), load(REG15, R), Resubmit(2)),
        flow(2, [(REG15, Q)], OUT_Q),
        flow(2, [(REG15, R)], Output(R)),
    ],
    "not the port it came from": [flow(0, [(IN_PORT, Q)], Output(IN_PORT_PORT), Output(NORMAL))],
    "back, and on by NORMAL": [flow(0, (), Output(IN_PORT_PORT), Output(NORMAL))],
    "back, and to all others": [flow(0, (), Output(ALL_PORTS), Output(IN_PORT_PORT))],
    "not where it came from": [flow(0, [(IN_PORT, Q)], OUT_Q, OUT_Q)],
    "one flow or the other": [
        flow(0, [(IN_PORT, P)], Resubmit(1)),
        flow(1, (), OUT_Q),
        flow(1, [(REG5, 7)], OUT_Q),
    ],
    "registers that no packet has both": [
        flow(0, (), Resubmit(1), Resubmit(2)),
        flow(1, [(REG5, 1)], OUT_Q),
        flow(2, [(REG5, 2)], OUT_Q),
    ],
}


@pytest.mark.parametrize("name", REPEATING)
def test_a_packet_sent_twice_is_found(name: str) -> None:
    """Whichever way it takes, and the flow is named that both ways lead through."""
    assert paths(pipeline(*REPEATING[name])).repeats == FlowName(0, 100, 0)


@pytest.mark.parametrize("name", ONCE)
def test_a_packet_sent_once_is_none(name: str) -> None:
    """Nor one that has another form each time."""
    assert paths(pipeline(*ONCE[name])).repeats is None


def test_nothing_goes_to_a_reserved_port_by_normal() -> None:
    """So that a flow that names it, too, sends once."""
    sending = pipeline(flow(0, (), OUT_Q, Output(NORMAL)))
    assert paths(sending).repeats
    assert paths(sending, reserved=True).repeats is None


@pytest.mark.parametrize("every", [True, False])
def test_buckets(every: bool) -> None:
    """A packet goes through all of a group's buckets, or through one."""
    both = Group(((OUT_Q,), (Resubmit(1),)), every)
    found = paths(pipeline(flow(0, (), ToGroup(7)), flow(1, (), OUT_Q), groups={7: both}))
    assert found.repeats == (FlowName(0, 100, 0) if every else None)
    twice = pipeline(flow(0, (), ToGroup(7), OUT_Q), groups={7: Group(((OUT_Q,),), every)})
    assert paths(twice).repeats


OVN = [
    flow(0, [(IN_PORT, P)], load(METADATA, 1), load(REG14, 1), Resubmit(8)),
    flow(0, [(IN_PORT, Q)], load(METADATA, 1), load(REG14, 2), Resubmit(8)),
    flow(0, [(IN_PORT, R)], load(METADATA, 2), load(REG14, 1), Resubmit(8)),
    flow(8, [(METADATA, 1)], load(REG15, 1), Resubmit(37)),
    flow(8, [(METADATA, 1)], load(REG15, 2), Resubmit(37)),
    flow(8, [(METADATA, 1)], load(REG15, 3), Resubmit(37)),
    flow(8, [(METADATA, 1)], load(REG15, 0x8000), Resubmit(37)),
    flow(8, [(METADATA, 2)], load(REG15, 1), Resubmit(37)),
    flow(8, [(METADATA, 2)], load(REG15, 2), Resubmit(37)),
    flow(8, [(METADATA, 3)], Modify(), load(REG15, 1), Resubmit(37)),
    flow(8, [(METADATA, 3)], Modify(), load(REG15, 2), Resubmit(37)),
    flow(
        37,
        [(METADATA, 1), (REG15, 0x8000)],
        *(action for to in (3, 1, 2) for action in (load(REG15, to), Resubmit(64))),
    ),
    flow(37, (), Resubmit(64)),
    flow(64, (), Resubmit(65)),
    flow(65, [(METADATA, 1), (REG15, 1)], Output(P)),
    flow(65, [(METADATA, 1), (REG15, 2)], Output(Q)),
    flow(
        65,
        [(METADATA, 1), (REG15, 3)],
        Clone((load(METADATA, 3), load(REG14, 1), load(REG15, 0), Resubmit(8))),
    ),
    flow(
        65,
        [(METADATA, 3), (REG15, 1)],
        Clone((load(METADATA, 1), load(REG14, 3), load(REG15, 0), Resubmit(8))),
    ),
    flow(
        65,
        [(METADATA, 3), (REG15, 2)],
        Clone((load(METADATA, 2), load(REG14, 2), load(REG15, 0), Resubmit(8))),
    ),
    flow(65, [(METADATA, 2), (REG15, 1)], Output(R)),
    flow(
        65,
        [(METADATA, 2), (REG15, 2)],
        Clone((load(METADATA, 3), load(REG14, 2), load(REG15, 0), Resubmit(8))),
    ),
]
"""Two switches and a router, as ovn-controller has them: floods go by registers, port by port."""


def test_ovn_floods() -> None:
    """They send to each port once; what comes back by the router is changed."""
    found = paths(pipeline(*OVN))
    assert found.repeats is None
    assert found.numbered == FlowName(65, 100 + 15, 0)
    assert found.origins == arriving(P, R)


def test_ovn_router_that_changes_nothing() -> None:
    """A flood would come back as it was."""
    unchanged = [
        Flow(f.table, f.match, tuple(a for a in f.actions if not isinstance(a, Modify)))
        for f in OVN
    ]
    assert paths(pipeline(*unchanged)).repeats == FlowName(37, 100 + 11, 0)


def reentering(*drops: Flow) -> list[Flow]:
    """What a tunnel brings goes to the port that its metadata names, and on as if it arrived on
    that: as OVN has it for ICMP errors."""
    return [
        Flow(
            0,
            known((IN_PORT, 9)),
            (
                Forget(REG14.mask),
                Forget(REG15.mask),
                Resubmit(43),
                load(register(10), 7),
                Resubmit(8),
            ),
        ),
        Flow(8, Known(), (Move(REG14, REG6), Move(REG15, REG14), Move(REG6, REG15), Resubmit(43))),
        Flow(43, Known(), (Resubmit(65),)),
        flow(65, [(REG15, 2)], OUT_Q),
        *drops,
    ]


def test_flows_that_others_hide() -> None:
    """Of higher priority, if they match no more than is known of the packet."""
    loop = known((REG14, 2), (REG15, 2))
    assert paths(pipeline(*reentering())).repeats
    hidden = Flow(43, loop, (), priority=9, exact=True)
    assert paths(pipeline(*reentering(hidden))).repeats is None
    assert paths(pipeline(*reentering(replace(hidden, exact=False)))).repeats
    assert paths(pipeline(*reentering(replace(hidden, priority=0)))).repeats
    assert paths(pipeline(*reentering(replace(hidden, match=known((REG14, 2), (REG6, 1)))))).repeats


def test_registers_are_empty_when_a_packet_arrives() -> None:
    """Unless it is looked up in the first table again."""
    twice = [flow(0, [(REG5, 3)], OUT_Q, OUT_Q)]
    assert paths(pipeline(*twice)).repeats is None
    assert paths(pipeline(*twice, flow(1, (), Resubmit(0)))).repeats


def test_origins_by_registers() -> None:
    """Ports of one network, as a register says that the first table loads."""
    found = paths(
        pipeline(
            flow(0, [(IN_PORT, P)], load(REG6, 10), Resubmit(73)),
            flow(0, [(IN_PORT, R)], load(REG6, 20), Resubmit(73)),
            flow(73, [(REG6, 10)], load(REG5, Q), Resubmit(82)),
            flow(73, [(REG6, 20)], load(REG5, R), Resubmit(82)),
            flow(82, [(REG5, Q)], OUT_Q),
            flow(0, (), Output(NORMAL)),
        )
    )
    assert found.origins == arriving(P)
    assert found.numbered == FlowName(82, 104, 0)


def test_origins_behind_a_change() -> None:
    """Other forms count, too."""
    found = paths(pipeline(flow(0, [(IN_PORT, P)], Clone((Modify(), OUT_Q)))))
    assert found.origins == arriving(P)
    assert paths(pipeline(flow(0, (), OUT_Q))).origins == frozenset({Known()})
    found = paths(pipeline(flow(0, (), Output(NORMAL))))
    assert found == PortPaths(origins=frozenset(), tagged_origins=frozenset())


def test_tagged_packets() -> None:
    """Where a tag has been taken off, none leaves; a match may say that there is none."""
    strip = (Modify(), load(VLAN, 0))
    push = (Modify(), load(VLAN, VLAN_PRESENT | 7))
    found = paths(
        pipeline(
            flow(0, [(IN_PORT, P)], *strip, OUT_Q),
            flow(0, [(IN_PORT, R), (VLAN, 0)], OUT_Q),
            flow(0, [(IN_PORT, 4)], *push, *strip, OUT_Q),
        )
    )
    assert found.tagged_origins == frozenset()
    found = paths(pipeline(flow(0, [(IN_PORT, P)], *push, OUT_Q), flow(0, [(IN_PORT, R)], OUT_Q)))
    tagged = Known.of(IN_PORT, R).both(Known.of(VLAN, VLAN_PRESENT, VLAN_PRESENT))
    assert found.tagged_origins == arriving(P) | {tagged}


@pytest.mark.parametrize(
    ("actions", "traits"),
    [
        ((Output(NORMAL),), FlowTraits()),
        ((), FlowTraits(normal=False)),
        ((Clone((OUT_Q,)),), FlowTraits(normal=False, outputs=True)),
        ((OutputField(REG5),), FlowTraits(outputs=True)),
        ((Clone((Modify(always=False),)),), FlowTraits(normal=False, modifies=True)),
        ((load(VLAN, 0),), FlowTraits(normal=False, strips=True)),
        ((load(VLAN, VLAN_PRESENT | 5), load(REG5, 0)), FlowTraits(normal=False)),
    ],
)
def test_traits(actions: tuple[Action, ...], traits: FlowTraits) -> None:
    """What some flow does, whether packets reach it or not."""
    assert traits_of(FlowGraph.of(pipeline(flow(7, (), *actions))), {}) == traits


def test_groups_that_use_each_other() -> None:
    """Open vSwitch takes them where no flow uses them."""
    groups = {3: Group(((OUT_Q,), (OUT_Q,), (ToGroup(3),)))}
    assert paths(pipeline(flow(0, (), Output(NORMAL)), groups=groups)).repeats is None


def test_a_second_tag() -> None:
    """A tag that is put on and taken off leaves the one that was there."""
    push = (Modify(), Forget(SECOND_VLAN.mask), load(VLAN, VLAN_PRESENT | 5))
    pop = (Modify(always=False), Move(SECOND_VLAN, VLAN), load(SECOND_VLAN, 0))
    assert paths(pipeline(flow(0, [(IN_PORT, P)], *pop, OUT_Q))).tagged_origins == frozenset()
    found = paths(pipeline(flow(0, [(IN_PORT, P)], *push, Output(R), *pop, OUT_Q)))
    assert found.tagged_origins == arriving(P)
    # Another bridge may have put the first tag on.
    patched = FollowedPort(reserved=False, vlans=True, patches=(P,))
    graph = FlowGraph.of(pipeline(flow(0, [(IN_PORT, P)], *pop, OUT_Q)))
    assert port_paths(graph, Q, patched).tagged_origins == arriving(P)
    graph = FlowGraph.of(pipeline(flow(0, (), *pop, OUT_Q)))
    assert port_paths(graph, Q, patched).tagged_origins == arriving(P)
    graph = FlowGraph.of(pipeline(flow(0, [(IN_PORT, R)], *pop, OUT_Q)))
    assert port_paths(graph, Q, patched).tagged_origins == frozenset()
    twice = FollowedPort(reserved=False, vlans=True, two_tags=True)
    graph = FlowGraph.of(pipeline(flow(0, [(IN_PORT, P)], *pop, OUT_Q)))
    assert port_paths(graph, Q, twice).tagged_origins == arriving(P)


def test_patch_ports_that_lead_back() -> None:
    """Are not followed."""
    graph = FlowGraph.of(pipeline(flow(0, (), OUT_Q)))
    followed = FollowedPort(reserved=False, vlans=False, looped=True)
    assert port_paths(graph, Q, followed).undecided


def test_a_long_way() -> None:
    """Does not end the search, nor the walk."""
    chain = [flow(1, [(REG5, n)], load(REG5, n + 1), Resubmit(1)) for n in range(400)]
    parting = flow(0, (), load(REG5, 0), Resubmit(1), OUT_Q)
    assert paths(pipeline(parting, *chain, flow(1, [(REG5, 400)], OUT_Q))).repeats


def test_loops_end() -> None:
    """Tables that look each other up."""
    found = paths(pipeline(flow(0, (), Resubmit(1)), flow(1, (), Resubmit(0), OUT_Q)))
    assert found.repeats is not None


def test_too_many_flows() -> None:
    """Registers that each flow loads otherwise: then what is matched on the way counts less."""
    many = [
        flow(t, [(register(t), v)], load(register(t + 1), v + 1), Resubmit(t + 1))
        for t in range(12)
        for v in range(50)
    ]
    found = paths(pipeline(*many, flow(12, [(register(13), 3)], OUT_Q)))
    assert not found.undecided
    assert found.repeats is None


# Random pipelines, beside packets that take random ways through them.

FIELDS = [REG5, REG15, IN_PORT, VLAN]
RESERVED = [number & 0xFFFF for number in (IN_PORT_PORT, TABLE, NORMAL, FLOOD, ALL_PORTS)]
VALUES = [0, 1, 2, VLAN_PRESENT, *RESERVED]
fields = st.sampled_from(FIELDS)
values = st.sampled_from(VALUES)
loads = st.builds(lambda bits, value: load(bits, value), fields, values)
leaves = (
    st.builds(Output, st.sampled_from([P, Q, IN_PORT_PORT, NORMAL, FLOOD]))
    | st.builds(OutputField, st.sampled_from([REG5, REG15]))
    | loads
    | st.builds(Move, st.sampled_from([REG5, REG15]), st.sampled_from([REG5, REG15]))
    | st.builds(lambda bits: Forget(bits.mask), fields)
    | st.builds(Modify, st.booleans())
    | st.builds(ToGroup, st.sampled_from([1, 2]))
)
plain = st.lists(leaves, max_size=3).map(tuple)
buckets = st.builds(
    Group,
    st.lists(
        st.lists(loads | st.just(OUT_Q) | st.just(Modify()), max_size=3).map(tuple), max_size=2
    ).map(tuple),
    st.booleans(),
)


def actions_of(table: int) -> st.SearchStrategy[tuple[Action, ...]]:
    deeper = leaves | st.builds(Resubmit, st.integers(table + 1, table + 2), st.booleans())
    return st.lists(
        deeper | st.builds(Clone, st.lists(deeper, max_size=3).map(tuple)), max_size=4
    ).map(tuple)


def flows_of(table: int) -> st.SearchStrategy[list[Flow]]:
    matched = st.tuples(st.sampled_from([*FIELDS, ETH_TYPE]), values)
    match = st.lists(matched, max_size=1).map(lambda each: known(*each))
    priorities = st.integers(0, 3)
    one = st.builds(Flow, st.just(table), match, actions_of(table), priorities, st.booleans())
    return st.lists(one, min_size=1, max_size=3)


pipelines = st.builds(
    lambda tables, groups: pipeline(
        *dict.fromkeys(each for table in tables for each in table), groups=groups
    ),
    st.tuples(*map(flows_of, range(4))),
    st.fixed_dictionaries({1: buckets, 2: buckets}),
)


class Packet:
    """Takes one way through a pipeline, and notes where it leaves, and in which form."""

    def __init__(self, through: Pipeline, choices: random.Random) -> None:
        self.through, self.choices = through, choices
        self.metadata = Known.of(IN_PORT, choices.choice([P, Q, R])).value
        self.metadata |= Known.of(VLAN, choices.choice(VALUES)).value
        self.metadata |= Known.of(ETH_TYPE, choices.choice(VALUES)).value
        self.form = self.forms = 0
        self.lookups = 0
        """By OFPP_TABLE."""
        self.left: list[tuple[int, int, bool, bool]] = []
        """Port, form, whether a flow named the port, whether it has a tag."""

    @property
    def origin(self) -> Known:
        """What it has when it arrives."""
        return Known(self.metadata, -1)

    def get(self, bits: Bits) -> int:
        return (self.metadata & bits.mask) >> bits.offset

    def put(self, written: Known) -> None:
        self.metadata = self.metadata & ~written.mask | written.value

    def leave(self, port: int, *, numbered: bool) -> None:
        self.left.append((port, self.form, numbered, bool(self.get(VLAN) & VLAN_PRESENT)))

    def look_up(self, table: int, in_port: int | None = None) -> None:
        here = Known(self.metadata, -1)
        if in_port is not None:
            here = here.only(~IN_PORT.mask).both(Known.of(IN_PORT, in_port))
        found = [f for f in self.through.flows if f.table == table and here.meets(f.match)]
        self.choices.shuffle(found)
        for each in sorted(found, key=lambda each: -each.priority):
            # Whether others match depends on what is not told of them.
            if each.exact or self.choices.random() < 0.5:
                self.execute(each.actions)
                return

    def clone(self, actions: tuple[Action, ...]) -> None:
        before = self.metadata, self.form
        self.execute(actions)
        self.metadata, self.form = before

    def execute(self, actions: tuple[Action, ...]) -> None:
        for action in actions:
            self.do(action)

    def do(self, action: Action) -> None:
        in_port = self.get(IN_PORT)
        match action:
            case Output(port) if port == IN_PORT_PORT:
                self.leave(in_port, numbered=True)
            case Output(port) if port in (NORMAL, FLOOD, ALL_PORTS):
                for each in {P, Q, R} - {in_port}:
                    self.leave(each, numbered=port != NORMAL)
            case Output(port):
                if port != in_port:
                    self.leave(port, numbered=True)
            case OutputField(source):
                number = self.get(source)
                if number == TABLE & 0xFFFF:
                    self.lookups += 1
                    if self.lookups < 4:
                        self.look_up(0)
                else:
                    self.do(Output(number | 0xFFFF0000 if number > 0xFF00 else number))
            case Load(written):
                self.put(written)
            case Move(source, destination):
                self.put(Known.of(destination, self.get(source)))
            case Forget(mask):
                self.put(Known(self.choices.choice([0, mask]) & mask, mask))
            case Modify(always) if always or self.choices.random() < 0.5:
                self.put(Known.of(ETH_TYPE, self.choices.choice(VALUES)))
                self.forms += 1
                self.form = self.forms
            case Resubmit(table, other_port):
                # The flow that is found sees the packet's own port again.
                self.look_up(table, self.choices.choice([P, Q, R, 7]) if other_port else None)
            case ToGroup(number):
                group = self.through.groups[number]
                one = self.choices.choices(group.buckets) if group.buckets else []
                for bucket in group.buckets if group.every else one:
                    self.clone(bucket)
            case Clone(inner):
                self.clone(inner)


@given(pipelines, st.integers(0, 2**32))
def test_no_packet_does_what_was_not_found(through: Pipeline, seed: int) -> None:
    """What some packet does is among what any may do."""
    found = {port: paths(through, port) for port in (P, Q, R)}
    choices = random.Random(seed)
    for _ in range(30):
        packet = Packet(through, choices)
        origin = packet.origin
        packet.look_up(0)
        for (port, _), count in Counter(each[:2] for each in packet.left).items():
            if port in found and count > 1:
                assert found[port].repeats is not None
        for port, _, numbered, tagged in packet.left:
            if port in found and numbered:
                assert found[port].numbered is not None
                assert any(origin.meets(each) for each in found[port].origins or ())
                if tagged:
                    assert any(origin.meets(each) for each in found[port].tagged_origins or ())
