"""What can't be logged is lost, and no more than that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import structlog
from ovs_ebpf_tap.util import logs
logs.configure()
structlog.get_logger().info("an event", key="value")
print("still there")
"""


@pytest.mark.parametrize("where", ["/dev/full", "a pipe without a reader"])
def test_it_goes_on(where: str) -> None:
    script = SCRIPT
    if where != "/dev/full":
        script = "import os, sys; r, w = os.pipe(); os.close(r); os.dup2(w, 2)\n" + script
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=full, check=False
        )
    assert done.stdout == b"still there\n"


def test_a_line_an_event() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, check=True)
    (line,) = done.stderr.decode().splitlines()
    assert line.endswith('level=info event="an event" key=value')
