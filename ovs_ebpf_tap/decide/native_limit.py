"""Whether a bridge has more mirrors than Open vSwitch takes, and which it has not taken."""

from __future__ import annotations

from ovs_ebpf_tap.decide.bridge_ports import BridgePorts
from ovs_ebpf_tap.decide.mirror_filter import InvalidFilterError, UnsupportedFilterError, parse
from ovs_ebpf_tap.decide.topology import BridgeContext
from ovs_ebpf_tap.model.limits import MAX_NATIVE_MIRRORS
from ovs_ebpf_tap.model.rows import Mirror


def is_over_native_limit(ports: BridgePorts) -> bool:
    """Whether OVS is asked for more mirrors on the bridge than it takes.

    A row without an output, or with a filter that it does not parse, takes no place of another:
    `mirror_configure` in `vswitchd/bridge.c`, `mirror_set` in `ofproto/ofproto-dpif-mirror.c`.
    """
    if len(ports.mirrors) <= MAX_NATIVE_MIRRORS:
        return False
    return sum(_takes_place(ports, mirror) for mirror in ports.mirrors) > MAX_NATIVE_MIRRORS


def _takes_place(ports: BridgePorts, mirror: Mirror) -> bool:
    if mirror.output_port is not None:
        if ports.output_port(mirror) is None:
            return False
    elif mirror.output_vlan is None:
        return False
    try:
        parse(mirror.filter or "")
    except InvalidFilterError:
        return False
    except UnsupportedFilterError:
        return True
    return True


def lacks_room(context: BridgeContext, mirror: Mirror) -> bool:
    """Whether OVS has not taken the mirror because it has 32 on the bridge.

    It keeps statistics of those that it has taken (`mirror_refresh_stats`), and which they
    are depends on what came first.
    """
    return context.over_native_limit and not mirror.parked and not mirror.statistics
