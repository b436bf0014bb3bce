"""Each packet is copied to an output once, however many reasons select it."""

from __future__ import annotations

from ovs_ebpf_tap.lab.frames import ETH_8021AD, Tag, with_tags
from parity.case import Case, Mirror, Port, announce, broadcast, flood, left, ports, talk

LEARNED = announce("a", "b", "c")
TALK = [
    ("a", talk("a", "b")),
    ("b", talk("b", "a")),
    ("c", talk("c", "a")),
    ("b", talk("b", "c")),
]
FLOODS = [("a", flood("a")), ("b", flood("b")), ("c", flood("c"))]

SELECTIONS = {
    "source": Mirror(src="a", output="m"),
    "destination": Mirror(dst="a", output="m"),
    "both_of_one_port": Mirror(src="a", dst="a", output="m"),
    "both_of_one_packet": Mirror(src="a", dst="b", output="m"),
    "several_sources": Mirror(src="a b c", output="m"),
    "several_destinations": Mirror(dst="a b c", output="m"),
    "all_as_both": Mirror(src="a b c", dst="a b c", output="m"),
    "all_ports": Mirror(select_all=True, output="m"),
}

# What is in a VLAN leaves with its tag, and without: a copy has what the first to leave has.
MIXED = ports("m n o", a=Port(), b=Port(tag=10), c=Port(), d=Port(tag=10), e=Port(trunks=(10,)))
MIXED_MIRRORS = [
    Mirror(dst="b c", output="m"),
    Mirror(dst="c d", output="n"),
    Mirror(dst="d e", output="o"),
]
MIXED_FLOODS = [
    ("a", flood("a", [tag])) for tag in (Tag(10), Tag(10, pcp=5), Tag(10, tpid=ETH_8021AD))
]

CASES = [
    *(
        Case(f"{name}_learned", ports("a b c m"), [mirror], TALK, learn=LEARNED, all_hooks=True)
        for name, mirror in SELECTIONS.items()
    ),
    *(
        Case(f"{name}_flooded", ports("a b c m"), [mirror], FLOODS)
        for name, mirror in SELECTIONS.items()
    ),
    Case(
        "twice",
        ports("a b c m"),
        [Mirror(src="a", dst="b c", output="m")],
        [("a", [broadcast("a")] * 2), ("b", [broadcast("b")] * 2)],
        all_hooks=True,
    ),
    Case(
        "fifty_times",
        ports("a b c m"),
        [Mirror(src="a", dst="b c", output="m")],
        [("a", [broadcast("a")] * 50), ("b", [broadcast("b")] * 50)],
        all_hooks=True,
    ),
    Case(
        "fifty_times_to_destinations",
        ports("a b c d m"),
        [Mirror(dst="b c d", output="m")],
        [("a", [broadcast("a")] * 50)],
    ),
    Case(
        "in_two_vlans",
        ports("a b c m"),
        [Mirror(src="a", dst="b", output="m")],
        [("a", [with_tags(broadcast("a"), [vlan]) for vlan in (10, 20, 10, 20)])],
    ),
    Case(
        "in_two_vlans_of_access_ports",
        ports("m", a=Port(), b=Port(tag=10), c=Port(tag=20)),
        [Mirror(dst="b c", output="m")],
        [("a", [with_tags(broadcast("a"), [vlan]) for vlan in (10, 20, 10, 20)])],
    ),
    Case(
        "with_tags_and_without",
        MIXED,
        MIXED_MIRRORS,
        MIXED_FLOODS,
        datapaths=("system",),
    ),
    Case(
        "with_tags_and_without_in_batches",
        MIXED,
        left("what leaves through ports that take tags off and through others", *MIXED_MIRRORS),
        MIXED_FLOODS,
        datapaths=("netdev",),
    ),
    Case(
        "with_tags_and_without_when_they_have_arrived",
        MIXED,
        [Mirror(select_all=True, output="m"), Mirror(dst="b c", output="m")],
        MIXED_FLOODS,
        all_hooks=True,
    ),
    Case(
        "from_two_sources",
        ports("a b c m"),
        [Mirror(src="a b", dst="c", output="m")],
        [("a", [broadcast("a")]), ("b", [broadcast("a")]), ("a", [broadcast("a")] * 3)],
    ),
    Case(
        "from_a_source_and_another_port",
        ports("a b c m"),
        [Mirror(src="a", dst="c", output="m")],
        [("a", [broadcast("a")]), ("b", [broadcast("a")]), ("a", [broadcast("a")] * 3)],
    ),
    Case(
        "from_different_vlans",
        ports("m", a=Port(tag=10), b=Port(tag=20), c=Port(tag=10), d=Port(tag=20)),
        [Mirror(src="a", dst="d", output="m")],
        [("a", [broadcast("a")] * 2), ("b", [broadcast("a")] * 2), ("a", [broadcast("a")])],
    ),
    Case(
        "mirrors_of_one_output",
        ports("a b c m"),
        [
            Mirror(src="a", output="m"),
            Mirror(dst="b", output="m"),
            Mirror(src="a c", dst="c", output="m"),
        ],
        [*TALK, *FLOODS],
        learn=LEARNED,
        all_hooks=True,
    ),
    Case(
        "mirrors_alike",
        ports("a b c m"),
        [Mirror(src="a", dst="b", output="m")] * 3,
        [*TALK, *FLOODS],
        learn=LEARNED,
    ),
    Case(
        "mirrors_of_different_outputs",
        ports("a b c m n o"),
        [
            Mirror(src="a", dst="b", output="m"),
            Mirror(src="a b", output="n"),
            Mirror(dst="b c", output="o"),
        ],
        [*TALK, *FLOODS],
        learn=LEARNED,
    ),
    Case(
        "two_of_all_ports",
        ports("a b c m n"),
        [Mirror(select_all=True, output="m"), Mirror(select_all=True, output="n")],
        FLOODS,
    ),
    Case(
        "all_ports_beside_one",
        ports("a b c m n"),
        [Mirror(select_all=True, output="m"), Mirror(src="a", dst="b", output="m")],
        FLOODS,
    ),
    Case(
        "arrivals_on_an_output",
        ports("a b m"),
        [Mirror(src="a m", dst="b", output="m"), Mirror(src="m", output="m")],
        [("m", flood("m")), ("a", flood("a"))],
    ),
    Case(
        "arrivals_on_another_output",
        ports("a b m n"),
        [Mirror(src="a", output="m"), Mirror(src="m", output="n"), Mirror(src="a", output="n")],
        [("m", flood("m")), ("a", flood("a"))],
    ),
    Case(
        "one_port_in_many",
        ports("a b m n o p q"),
        [Mirror(src="a", dst="a", output=output) for output in "mnopq"],
        FLOODS[:2],
    ),
    Case(
        "nothing_selected",
        ports("a b m"),
        [Mirror(output="m")],
        FLOODS[:2],
        silent=True,
    ),
    Case(
        "no_traffic_of_it",
        ports("a b c m"),
        [Mirror(src="c", output="m")],
        FLOODS[:2],
        silent=True,
    ),
]
