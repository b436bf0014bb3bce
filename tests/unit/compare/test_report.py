"""The table, JSON and the page of a comparison."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_ebpf_tap.compare import command
from ovs_ebpf_tap.compare.figures import Load, Metric, Reading, Result
from ovs_ebpf_tap.compare.page import as_page
from ovs_ebpf_tap.compare.report import as_json, as_table, number
from ovs_ebpf_tap.errors import TapError

LOADS = (
    Load(
        "one",
        "the first load",
        (
            Metric("pps", "packets", "/s", panel="Packets"),
            Metric("ns", "CPU per packet", "ns", 1e9, 0, "CPU", "host"),
            Metric("cpu", "CPU", "ns", 1e9, 0, "CPU", "all"),
            Metric("missing", "copies missing"),
            Metric("never", "what nobody measured"),
        ),
    ),
    Load("two", "the second load", (Metric("pps", "packets", "/s", panel="Packets"),)),
)


def made(missing: float | None = 0, name: str = "m0") -> Result:
    readings = tuple(
        Reading(
            round=number,
            load=load.name,
            variant=variant,
            seconds=1.5,
            values={
                "pps": pps + 10 * number,
                "ns": 2e-6,
                "cpu": 1e-6,
                "missing": missing,
            },
            raw={"anything": [1, 2]},
        )
        for number in range(3)
        for load in LOADS
        for variant, pps in (("native", 1000.0), ("offloaded", 2010.0))
    )
    return Result(
        title=f"Mirror {name}",
        about=(("Mirror", name),),
        host=(("Kernel", "Linux 6.1"),),
        commands=("ovs-ebpf-tap compare m0",),
        variants=("native", "offloaded"),
        loads=LOADS,
        readings=readings,
        unknown=() if missing is not None else ("copies missing: somebody filters",),
    )


def test_a_table() -> None:
    assert as_table(made()).splitlines() == [
        "Mirror m0",
        "",
        "Mirror:  m0",
        "Kernel:  Linux 6.1",
        "",
        "THE FIRST LOAD                    NATIVE             OFFLOADED  OFFLOADED/NATIVE",
        "packets, /s         1,010 [1,005, 1,015]  2,020 [2,015, 2,025]              2.00",
        "CPU per packet, ns                 2,000                 2,000              1.00",
        "CPU, ns                            1,000                 1,000              1.00",
        "copies missing                         0                     0                 -",
        "",
        "THE SECOND LOAD                NATIVE             OFFLOADED  OFFLOADED/NATIVE",
        "packets, /s      1,010 [1,005, 1,015]  2,020 [2,015, 2,025]              2.00",
        "",
        "Medians of all rounds, [quartiles]; ratios are of medians.",
    ]


def test_what_is_not_known_is_said() -> None:
    lines = as_table(made(missing=None)).splitlines()
    (row,) = (line for line in lines if line.startswith("copies missing"))
    assert row.split() == ["copies", "missing", "not", "known", "not", "known", "-"]
    assert lines[-1] == "Not known: copies missing: somebody filters."


def test_notes_come_last() -> None:
    noted = replace(made(missing=None), notes=("Open vSwitch adds copies",))
    assert as_table(noted).splitlines()[-1] == "Open vSwitch adds copies."
    assert json.loads(as_json(noted))["notes"] == ["Open vSwitch adds copies"]


def test_json_has_every_reading() -> None:
    read = json.loads(as_json(made()))
    assert len(read["rounds"]) == 12
    assert read["rounds"][0]["values"]["pps"] == 1000
    assert read["rounds"][0]["raw"] == {"anything": [1, 2]}
    figure = read["summary"]["one"]["pps"]
    assert figure["native"]["median"] == 1010
    assert figure["offloaded"]["q3"] == 2025
    assert figure["offloaded/native"] == 2
    assert read["summary"]["one"]["never"]["native"] is None
    assert json.loads(as_json(made(None)))["not_known"] == ["copies missing: somebody filters"]


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(0, 0, "0"), (-0.01, 1, "0.0"), (1234.56, 1, "1,234.6"), (-5, 0, "-5")],
)
def test_numbers(value: float, digits: int, text: str) -> None:
    assert number(value, digits) == text


class Page(HTMLParser):
    """Elements of a page, its text, and what it refers to."""

    VOID = ("meta", "br", "use", "path")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.ids: list[str] = []
        self.count = dict.fromkeys(("svg", "table"), 0)
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self.count:
            self.count[tag] += 1
        for name, value in attrs:
            if name in ("src", "href", "xlink:href"):
                assert value is not None
                assert value.startswith("#")
            if name == "id" and value is not None:
                self.ids.append(value)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_a_page_is_whole_and_refers_to_nothing_outside() -> None:
    page = Page(as_page(made()))
    assert page.open == []
    assert page.count == {"svg": 2, "table": 3}
    assert "ovs-ebpf-tap compare m0" in page.text
    assert {"Packets ", "CPU ", "Linux 6.1", "two", "host"} <= set(page.text)
    assert "@import" not in as_page(made())
    assert "url(http" not in as_page(made())


def test_a_page_is_the_same_each_time() -> None:
    assert as_page(made()) == as_page(made())


def test_identifiers_in_a_page_are_unique() -> None:
    ids = Page(as_page(made())).ids
    assert ids
    assert len(set(ids)) == len(ids)


def test_a_page_without_any_figure() -> None:
    empty = replace(made(), readings=())
    assert Page(as_page(empty)).open == []


@given(st.text(max_size=20))
def test_names_are_text(name: str) -> None:
    empty = replace(made(name=name), readings=())
    page = Page(as_page(empty))
    assert page.open == []
    assert page.count == {"svg": 0, "table": 3}


def test_what_the_page_needs_is_said_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    command._check_page(tmp_path / "page.html")
    with pytest.raises(TapError, match="a directory that is there"):
        command._check_page(tmp_path / "none" / "page.html")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "jinja2" else 1)
    with pytest.raises(TapError, match=r"needs jinja2: pip install 'jinja2>=3\.1'$"):
        command._check_page(tmp_path / "page.html")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(TapError, match=r"pip install 'matplotlib>=3\.8' 'jinja2>=3\.1'$"):
        command._check_page(tmp_path / "page.html")
