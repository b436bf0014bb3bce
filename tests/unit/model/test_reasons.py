"""The reasons why mirrors are not offloaded: README has all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ovs_ebpf_tap.model.desired import INVALID, NATIVE
from ovs_ebpf_tap.model.reasons import port_reasons, row_reasons
from ovs_ebpf_tap.model.reasons.reason import Reason, at_port
from ovs_ebpf_tap.model.reasons.table import all_reasons, render
from ovs_ebpf_tap.util import unexpected

README = Path(__file__).parents[3] / "README.md"


def test_readme_has_the_table() -> None:
    """`python -m ovs_ebpf_tap.model.reasons.table` prints what belongs there."""
    _, _, rest = README.read_text().partition("<!-- reasons -->\n")
    table, end, _ = rest.partition("<!-- /reasons -->")
    assert end
    assert table == render()


def test_the_values_of_a_case() -> None:
    why = port_reasons.NO_DEVICE.error(where="output port out", device="out")
    assert str(why) == "output port out has no network device out"
    assert (why.decision.state, why.decision.reason) == (NATIVE, str(why))
    assert row_reasons.INVALID_FILTER.decision(error="{}").reason == "filter: {}"
    assert row_reasons.NO_OUTPUT.decision().state == INVALID


def test_what_is_told_of_a_device() -> None:
    """Those who tell it do not know the port."""
    told = port_reasons.HOOK_REFUSED.told(error="Invalid argument")
    assert told == "hook refused: Invalid argument"
    assert at_port("port a", told) == str(
        port_reasons.HOOK_REFUSED.error(where="port a", error="Invalid argument")
    )
    assert "| `WHERE: hook refused: ERROR` |" in render()


def test_internal_errors_are_spelt_so() -> None:
    reason = unexpected.reason("a test", KeyError("x"))
    assert reason == row_reasons.INTERNAL_ERROR.told(error="KeyError: 'x'")


@pytest.mark.parametrize("name", all_reasons())
def test_each_is_fit_for_the_table(name: str) -> None:
    reason = all_reasons()[name]
    assert not set("|\n") & set(reason.template + reason.why + reason.change)
    assert reason.why.endswith(".")
    assert reason.change.endswith(".")


def test_no_two_are_alike() -> None:
    found = list(all_reasons().values())
    assert len({reason.template for reason in found}) == len(found)
    assert all(isinstance(reason, Reason) for reason in found)
