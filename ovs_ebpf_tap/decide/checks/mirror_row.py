"""Checks of the Mirror row, its mode, its bridge and the host."""

from __future__ import annotations

from ovs_ebpf_tap.decide.mirror_filter import InvalidFilterError, UnsupportedFilterError, parse
from ovs_ebpf_tap.decide.modes import NATIVE_MODE, OFFLOAD_MODE, mode_of
from ovs_ebpf_tap.decide.topology import BridgeContext, Topology
from ovs_ebpf_tap.model.desired import CLSACT
from ovs_ebpf_tap.model.reasons import row_reasons
from ovs_ebpf_tap.model.rows import Mirror


def check_bridges(context: BridgeContext, mirror: Mirror) -> None:
    """That no other bridge refers to the row."""
    if mirror.uuid in context.multi_bridge_mirrors:
        raise row_reasons.MULTIPLE_BRIDGES.error()


def check_row(topology: Topology, mirror: Mirror) -> None:
    """That OVS takes the row. As OVS does, passes over an output VLAN beside an output port."""
    if mirror.output_port is not None:
        if topology.output_port(mirror) is None:
            raise row_reasons.OUTPUT_ELSEWHERE.error()
    elif mirror.output_vlan is None:
        raise row_reasons.NO_OUTPUT.error()
    try:
        parse(mirror.filter or "")
    except InvalidFilterError as error:
        raise row_reasons.INVALID_FILTER.error(error=error) from None
    except UnsupportedFilterError:
        return  # Not for Open vSwitch.


def check_mode(context: BridgeContext, mirror: Mirror) -> None:
    """That the user, and other writers of the row, let it be offloaded."""
    mode = mode_of(context.db, context.bridge, mirror)
    if mode == NATIVE_MODE:
        raise row_reasons.MODE_NATIVE.error()
    if mode != OFFLOAD_MODE:
        raise row_reasons.MODE_UNKNOWN.error(mode=mode)
    if mirror.contended:
        raise row_reasons.CONTENDED.error()


def check_bridge(context: BridgeContext) -> None:
    """That hooks see what the bridge's datapath does."""
    bridge = context.bridge
    if bridge.spanning_tree:
        raise row_reasons.SPANNING_TREE.error()
    if bridge.datapath_type not in ("", "system", "netdev"):
        raise row_reasons.DATAPATH_TYPE.error(type=bridge.datapath_type)
    if context.db.hw_offload and context.attach == CLSACT:
        raise row_reasons.HW_OFFLOAD.error()


def check_filter(mirror: Mirror) -> None:
    """That the mirror's filter is on frames alone."""
    try:
        parse(mirror.filter or "")
    except UnsupportedFilterError as error:
        raise row_reasons.UNSUPPORTED_FILTER.error(field=error) from None
