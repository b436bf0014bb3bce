"""Keeps compiled objects: unchanged sources are not compiled again, not after a reboot."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from ovs_ebpf_tap.ebpf import build
from ovs_ebpf_tap.ebpf.object import Object
from ovs_ebpf_tap.errors import TapError

COMPILE_TIMEOUT = 300
"""Seconds; emulated machines are slow."""


def ensure_object() -> Object:
    """The object of this version's sources: kept, or compiled and kept now. Raises TapError."""
    kept = build.CACHE / f"{build.build_id()}.json"
    try:
        return Object.from_json(kept.read_text())
    except (OSError, ValueError):
        text = _compile()
    try:
        made = Object.from_json(text)
    except ValueError as error:
        raise TapError(f"compiling the programs failed: {error}") from None
    with contextlib.suppress(OSError):  # Then it is compiled again next time.
        _keep(kept, text)
    return made


def _keep(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as draft:
        try:
            draft.write(text)
            draft.close()
            os.replace(draft.name, path)
        except BaseException:
            os.unlink(draft.name)
            raise


def _compile() -> str:
    # The child is to be of this very package, whatever lies in the working directory.
    home = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
    try:
        child = subprocess.run(
            [sys.executable, "-P", "-m", "ovs_ebpf_tap.ebpf.compile"],
            capture_output=True,
            env={**os.environ, "PYTHONPATH": path},
            text=True,
            check=False,
            timeout=COMPILE_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        raise TapError(f"compiling the programs took over {COMPILE_TIMEOUT} s") from None
    if child.returncode:
        lines = (child.stderr + child.stdout).strip().splitlines()
        errors = [line for line in lines if "error:" in line] or lines[-1:] or ["killed"]
        raise TapError(f"compiling the programs failed: {errors[0]}")
    return child.stdout
