"""What the README files name is there: files, headings and scripts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
PACKAGES = CHECKOUT / "ovs_ebpf_tap"
PAGES = sorted(
    page
    for top in (".", "bpf", "ovs-configs", "ovs_ebpf_tap", "tests")
    for page in (CHECKOUT / top).glob("README.md" if top == "." else "**/README.md")
)


def _name(page: Path) -> str:
    return str(page.relative_to(CHECKOUT))


def _anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        target, _, anchor = link.partition("#")
        linked = page.parent / target if target else page
        assert linked.exists(), link
        assert not anchor or anchor in _anchors(linked), link


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_scripts_that_are_named_exist(page: Path) -> None:
    for script in re.findall(r"\bscripts/[\w.-]*\w", page.read_text()):
        assert (CHECKOUT / script).exists(), script


@pytest.mark.parametrize(
    "page", [PACKAGES / "README.md", CHECKOUT / "tests" / "README.md"], ids=_name
)
def test_modules_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"`([\w/]+\.(?:py|c|h))`", page.read_text())
    assert named
    for path in named:
        places = (CHECKOUT, PACKAGES, CHECKOUT / "tests")
        assert any((place / path).exists() for place in places), path
