"""Whether ovs-vswitchd's revalidators have work to do, seen from outside."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovs_ebpf_tap.lab.waiting import wait_for
from ovs_ebpf_tap.observe.vswitchd import is_revalidating, seconds_since_start

THREAD = """
import sys, threading, time
from pathlib import Path

def work():
    Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(sys.argv[1])
    print("ready", flush=True)
    while sys.argv[2] == "busy":
        pass
    time.sleep(60)

threading.Thread(target=work).start()
"""


@pytest.fixture
def other(request: pytest.FixtureRequest) -> Iterator[int]:
    """A process with a thread of that name, which is busy or not."""
    command = (sys.executable, "-c", THREAD, *request.param)
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.kill()


@pytest.mark.parametrize("other", [("revalidator8", "busy")], indirect=True)
def test_one_has(other: int) -> None:
    wait_for(lambda: is_revalidating(other))


@pytest.mark.parametrize(
    "other", [("revalidator8", "idle"), ("handler (7) ", "busy")], indirect=True
)
def test_none_has(other: int) -> None:
    wait_for(lambda: not is_revalidating(other))


def test_it_is_gone() -> None:
    assert not is_revalidating(None)
    assert not is_revalidating(2**22 + 1)


def test_how_long_one_has_run(tmp_path: Path) -> None:
    (tmp_path / "ovs-vswitchd.pid").write_text(f"{os.getpid()}\n")
    seconds = seconds_since_start(tmp_path)
    assert seconds is not None
    time.sleep(0.1)
    assert 0 <= seconds < (seconds_since_start(tmp_path) or 0)
    assert seconds_since_start(tmp_path / "none") is None
