"""`status`: shows every mirror, with or without a running sidecar."""

from __future__ import annotations

import contextlib
import os

from ovs_ebpf_tap.apply import leftovers
from ovs_ebpf_tap.apply.datapath import Datapath
from ovs_ebpf_tap.apply.traffic_control import TrafficControl
from ovs_ebpf_tap.daemon import mirror_status
from ovs_ebpf_tap.daemon.runtime import Options, connect
from ovs_ebpf_tap.ebpf import pinning, programs
from ovs_ebpf_tap.observe.devices import DeviceMonitor
from ovs_ebpf_tap.util import namespace


def show_status(options: Options) -> list[mirror_status.MirrorStatus]:
    """The status of all mirrors, read from the database and the kernel. Raises TapError."""
    with contextlib.ExitStack() as stack:
        ovsdb = stack.enter_context(contextlib.closing(connect(options.ovsdb)))
        monitor = stack.enter_context(contextlib.closing(DeviceMonitor.open()))
        traffic_control = TrafficControl.open(pinning.owner(options.pin_dir))
        stack.callback(traffic_control.close)
        is_root = os.geteuid() == 0
        opened = programs.open_programs(options.pin_dir) if is_root else None
        datapath = None
        if opened is not None:
            stack.callback(opened.close)
            datapath = Datapath.open(options.pin_dir, monitor, traffic_control, opened)
        return mirror_status.collect(
            ovsdb.snapshot(),
            monitor.devices,
            datapath,
            nothing_pinned=is_root and not pinning.builds(options.pin_dir),
            foreign=lambda names: leftovers.on_devices(options.pin_dir, traffic_control, names),
            elsewhere=namespace.elsewhere(options.pin_dir),
        )
