"""What mirrors are due, from what passed the ports."""

from __future__ import annotations

from collections import Counter

import pytest

from ovs_ebpf_tap.lab.frames import BROADCAST, Tags, ethernet
from parity.case import Case, CaseMirror, CasePort, Sent, ports
from parity.due import PassedFrames, due, native_problems, passed_ports


def frame(text: str, tags: Tags = ()) -> bytes:
    return ethernet(BROADCAST, "02:00:00:00:00:01", 0x88B5, text.encode(), tags)


X, Y, Z = (frame(text) for text in "XYZ")
SOURCE = CaseMirror(src="a", output="m")
DESTINATIONS = CaseMirror(dst="b c", output="m")
BOTH = CaseMirror(src="a", dst="b c", output="m")


def case(*sent: Sent) -> Case:
    return Case("a case", ports("a b m", c=CasePort(tag=10)), [BOTH], sent)


def passed(a: str = "", b: str = "", c: str = "") -> PassedFrames:
    """Frames by their letters: those that arrive on a, and those that leave by b and c."""
    counted = [Counter(frame(letter) for letter in letters) for letters in (a, b, c)]
    return PassedFrames({"a": counted[0]}, {"b": counted[1], "c": counted[2]})


@pytest.mark.parametrize(
    ("what", "mirror", "copies"),
    [
        # Forwarded, flooded, dropped, in another form to one port or to each.
        (passed("X", "X"), BOTH, "X"),
        (passed("X", "X", "X"), BOTH, "X"),
        (passed("X", "X", "X"), DESTINATIONS, "X"),
        (passed("X"), BOTH, "X"),
        (passed("X"), DESTINATIONS, ""),
        (passed("X", "Y"), SOURCE, "X"),
        (passed("X", "Y"), BOTH, "XY"),
        (passed("X", "Y"), DESTINATIONS, "Y"),
        (passed("X", "Y", "Y"), BOTH, "XY"),
        (passed("X", "X", "Y"), BOTH, "XY"),
        (passed("X", "Y", "Z"), DESTINATIONS, "YZ"),
        # Several packets.
        (passed("XXX", "XXX", "X"), BOTH, "XXX"),
        (passed("XXX", "YYY", "X"), BOTH, "XXXYYY"),
        (passed("XY", "XY", "ZZ"), BOTH, "XYZZ"),
    ],
)
def test_each_form_once(what: PassedFrames, mirror: CaseMirror, copies: str) -> None:
    assert due(what, [mirror]) == Counter(map(frame, copies))


def test_mirrors_with_one_output() -> None:
    what = passed("XX", "XX", "Y")
    assert due(what, [SOURCE, CaseMirror(dst="b", output="m")]) == Counter([X, X])
    assert due(what, [SOURCE, DESTINATIONS]) == Counter([X, X, Y])


def test_select_all_is_both_ways() -> None:
    assert due(passed("X", "Y", "X"), [CaseMirror(select_all=True, output="m")]) == Counter([X, Y])


def test_select_vlan_is_of_each_form() -> None:
    before, after = frame("X", [10]), frame("X", [20])
    what = PassedFrames({"a": Counter([before, Y])}, {"b": Counter([after, Y])})

    def selected(*vlans: int) -> Counter[bytes]:
        return due(what, [CaseMirror(src="a", dst="b", output="m", select_vlan=vlans)])

    assert selected(10) == Counter([before])
    assert selected(20) == Counter([after])
    assert selected(0, 10, 20) == Counter([before, after, Y])


def test_what_passed_outputs_is_left_out() -> None:
    captured = {"a": Counter[bytes](), "b": Counter([X]), "m": Counter([X])}
    what = passed_ports(case(("a", [X]), ("m", [Z]), ("a", [X])), captured)
    assert what.arrived == {"a": Counter([X, X])}
    assert set(what.left) == {"a", "b"}


def test_frames_of_an_access_port_are_in_its_vlan() -> None:
    what = passed_ports(case(("b", [frame("X", [10])])), {"c": Counter([X]), "local": Counter([X])})
    assert what.arrived == {"b": Counter([frame("X", [10])])}
    assert what.left == {"c": Counter([frame("X", [10])]), "local": Counter([X])}
    assert due(what, [CaseMirror(src="b", dst="c", output="m")]).total() == 1


def test_a_frame_arrives_on_one_port() -> None:
    with pytest.raises(ValueError, match="arrived on two ports"):
        PassedFrames({"a": Counter([X]), "b": Counter([X, Y])}, {})


@pytest.mark.parametrize(
    ("copies", "recirculates", "problem"),
    [
        ("XY", False, ""),
        ("X", False, ""),  # Before 3.1.3.
        ("XXYYY", False, ""),
        ("Y", False, "left out what is due"),
        ("Y", True, "left out what is due"),
        ("XYZ", False, "copied what is not due"),
        ("XYZ", True, ""),
    ],
)
def test_what_open_vswitch_may_do_otherwise(copies: str, recirculates: bool, problem: str) -> None:
    what = passed("X", "Y")
    native = Counter(map(frame, copies))
    found = list(native_problems(what, due(what, [BOTH]), native, recirculates))
    assert bool(found) == bool(problem)
    assert problem in "".join(found)
