"""What can't be logged is lost, and no more than that."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
import structlog
from ovs_ebpf_tap.util import logs
logs.configure(*sys.argv[1:])
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


def logged(*formats: str) -> str:
    command = [sys.executable, "-c", SCRIPT, *formats]
    (line,) = subprocess.run(command, capture_output=True, check=True).stderr.decode().splitlines()
    return line


@pytest.mark.parametrize("formats", [(), ("logfmt",)])
def test_logfmt_is_the_default(formats: tuple[str, ...]) -> None:
    timestamp, rest = logged(*formats).split(" ", 1)
    assert timestamp.startswith("timestamp=20")
    assert timestamp.endswith("Z")
    assert rest == 'level=info event="an event" key=value'


def test_json_is_an_object_a_line() -> None:
    event = json.loads(logged("json"))
    assert list(event) == ["timestamp", "level", "event", "key"]
    assert (event["level"], event["event"], event["key"]) == ("info", "an event", "value")


def test_console_has_no_colours_in_a_file() -> None:
    words = logged("console").split()
    assert words[1:] == ["[info", "]", "an", "event", "key=value"]
