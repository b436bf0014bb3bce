"""`--attach` on kernels with and without TCX."""

from __future__ import annotations

import pytest

from ovs_ebpf_tap.lab.kernel import attachments, has_tcx
from ovs_ebpf_tap.lab.sidecar_process import SidecarProcess
from ovs_ebpf_tap.lab.switch import Switch

pytestmark = [pytest.mark.vm, pytest.mark.tcx]


def test_tcx_is_asked_for(switch: Switch) -> None:
    tap = SidecarProcess(switch, "--attach", "tcx")
    try:
        if has_tcx():
            tap.start()
            assert "attach=tcx" in tap.log()
        else:
            done = tap.run("run", "--attach", "tcx")
            assert done.returncode == 1
            assert done.stderr.splitlines() == [
                "ovs-ebpf-tap: this kernel has no TCX hooks: Linux 6.6 or later is needed"
            ]
            assert not tap.pin_dir.exists()
            assert not tap.run_dir.exists()
    finally:
        tap.close()


def test_auto_takes_what_there_is(switch: Switch) -> None:
    with SidecarProcess(switch) as tap:
        assert f"attach={attachments()[0]}" in tap.log()
