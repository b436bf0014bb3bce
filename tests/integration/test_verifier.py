"""The kernel's verifier: the margin that programs leave, and the log of one that it refuses."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ovs_ebpf_tap
from ovs_ebpf_tap import abi
from ovs_ebpf_tap.ebpf import bpf, programs
from ovs_ebpf_tap.ebpf.object import PROGRAMS, TEMPLATES, XDP, Object
from ovs_ebpf_tap.ebpf.object_cache import ensure_object
from ovs_ebpf_tap.ebpf.template import bind_program
from ovs_ebpf_tap.lab.sidecar_process import SidecarProcess
from ovs_ebpf_tap.lab.switch import Switch

PACKAGE = Path(ovs_ebpf_tap.__path__[0]).parent

MOST_VERIFIED = 960_000
"""Instructions that the verifier may process of a program. It gives up at 1,000,000
(BPF_COMPLEXITY_LIMIT_INSNS); the rest is for what other kernels' verifiers do differently."""

_VERIFIED_INSNS = 216
"""Offset of `verified_insns` in `struct bpf_prog_info`, since Linux 5.16."""

CONSTANTS = {
    **{
        f"{struct}.{member}": 1
        for struct in ("hook", "rule", "port", "rewrite", "prefilter", "shortcut")
        for member in abi.layout(struct).members
    },
    "global.copy_tag": 1,
    "hook.flags": abi.constant("HOOK_DEDUP") | 1,
    "rule.flags": abi.constant("RULE_DEDUP"),
    "rule.match": 0,
}
"""Those of a hook whose program is long: it looks up VLANs, and deduplicates."""

# An exit without a value.
_REFUSED = struct.pack("=BBhi", 0x95, 0, 0, 0)

_FAULT = f"""
from ovs_ebpf_tap.ebpf import programs
original = programs.bind_program
programs.bind_program = lambda *given: {_REFUSED!r}
"""


@pytest.fixture(scope="module")
def maps() -> Iterator[tuple[Object, list[int]]]:
    """The compiled programs, and descriptors of their maps."""
    made = ensure_object()
    fds = [bpf.create_map(layout, name) for name, layout in made.maps.items()]
    yield made, fds
    for fd in fds:
        os.close(fd)


@pytest.mark.vm
@pytest.mark.parametrize("name", [*PROGRAMS, *TEMPLATES])
def test_there_is_a_margin(
    maps: tuple[Object, list[int]], name: str, figure: Callable[[str], None]
) -> None:
    made, fds = maps
    code = bind_program(made.codes[name], CONSTANTS | programs.kernel_constants(), fds)
    fd = bpf.load_xdp(code, name) if name == XDP else bpf.load_classifier(code, name)
    try:
        verified = struct.unpack_from("=I", bpf._info(fd, _VERIFIED_INSNS + 4), _VERIFIED_INSNS)[0]
    finally:
        os.close(fd)
    figure(f"{verified} instructions verified")
    assert 0 < verified <= MOST_VERIFIED


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
