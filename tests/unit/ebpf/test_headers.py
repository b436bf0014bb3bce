"""Headers of the programs, each by itself."""

from __future__ import annotations

import os

import pytest

from ovs_ebpf_tap import abi
from ovs_ebpf_tap.ebpf.compile import FLAGS, expand

HEADERS = sorted(path.name for path in abi.source_dir().glob("*.h"))


@pytest.mark.skipif(os.geteuid() != 0, reason="bcc takes root to make maps")
@pytest.mark.parametrize("name", HEADERS)
def test_a_header_includes_what_it_needs(name: str) -> None:
    from bcc import BPF

    os.environ["BCC_KERNEL_SOURCE"] = str(abi.source_dir())
    text = expand(abi.source_dir() / name).encode()
    BPF(text=text, cflags=[*FLAGS, "-Werror", "-Wno-unused-function"]).cleanup()
