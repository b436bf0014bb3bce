"""A program that the kernel's verifier refuses: the log has its last words."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

import ovs_ebpf_tap
from ovs_ebpf_tap.ebpf import bpf, programs
from ovs_ebpf_tap.lab.sidecar_process import SidecarProcess
from ovs_ebpf_tap.lab.switch import Switch

PACKAGE = Path(ovs_ebpf_tap.__path__[0]).parent

# An exit without a value.
_REFUSED = struct.pack("=BBhi", 0x95, 0, 0, 0)

_FAULT = f"""
from ovs_ebpf_tap.ebpf import programs
original = programs.bind_program
programs.bind_program = lambda *given: {_REFUSED!r}
"""


def test_what_it_says(switch: Switch) -> None:
    with pytest.raises(bpf.RefusedError, match="Permission denied") as refused:
        bpf.load_classifier(_REFUSED, "refused")
    assert "R0 !read_ok" in refused.value.said


def test_it_is_logged(switch: Switch, idle: SidecarProcess, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(_FAULT)
    env = {"PYTHONPATH": f"{tmp_path}:{PACKAGE}"}
    done = switch.ns.run(*idle.command("run"), check=False, timeout=120, env=env)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[-1].startswith("ovs-ebpf-tap: the kernel does not take the programs: ")
    said = [line for line in lines if "event=verifier" in line]
    assert 0 < len(said) <= programs._LAST_WORDS
    assert any("R0 !read_ok" in line for line in said)
    assert not idle.pin_dir.exists()
