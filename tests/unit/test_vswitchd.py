"""Whether ovs-vswitchd's revalidators have work to do, seen from outside."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from ovs_ebpf_tap.lab.waiting import wait_for
from ovs_ebpf_tap.vswitchd import is_revalidating

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
