"""What policers and other TC filters mean for a hook: does it see the packets that OVS sees?

`__netif_receive_skb_core` (`net/core/dev.c`) hands an arriving packet to packet sockets, then to
TCX programs and TC filters, then to the kernel's datapath. `__dev_queue_xmit` has TCX programs and
TC filters first, then the device. So what TC drops on arrival, the kernel's datapath does not see,
but a packet socket of the userspace datapath does; what the host sends through an internal device,
OVS sees last; and what leaves the switch, OVS has seen before TC.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ovs_ebpf_tap import tc
from ovs_ebpf_tap.netlink import PRIORITY


@dataclass(frozen=True)
class Surroundings:
    """What other programs have on devices."""

    state: tc.State = field(default_factory=tc.State)


NOTHING = Surroundings()


def is_looked_at_first(*, arrival: bool, netdev: bool, internal: bool) -> bool:
    """Whether OVS sees a port's packets before TC does.

    `arrival`: packets that arrive in the switch, not those that leave; `netdev`: the userspace
    datapath forwards; `internal`: the device is one of the switch itself.
    """
    return not arrival or (netdev and not internal)


def misses(each: tc.Filter, *, clsact: bool, ovs_first: bool) -> bool:
    """Whether the filter keeps packets from our hook that OVS sees.

    A TCX program of ours comes before all filters, a filter of ours behind those of lower
    preference, and what these take or end does not get to it.
    """
    return _is_before(each, clsact=clsact) and (each.ends or (each.takes and ovs_first))


def exceeds(each: tc.Filter, *, clsact: bool, ovs_first: bool) -> bool:
    """Whether our hook sees packets that the filter then keeps from OVS."""
    return each.takes and not ovs_first and not _is_before(each, clsact=clsact)


def _is_before(each: tc.Filter, *, clsact: bool) -> bool:
    """Other chains are jumped to, from wherever: what gets there is taken to have been copied."""
    return clsact and each.chain == 0 and each.priority < PRIORITY


def obstacle(filters: Iterable[tc.Filter], *, clsact: bool, ovs_first: bool) -> str | None:
    """Why a hook behind or before these filters can't copy what OVS would; None if it can."""
    for each in filters:
        if misses(each, clsact=clsact, ovs_first=ovs_first):
            return f"{each} of another program keeps packets from its hook"
        if exceeds(each, clsact=clsact, ovs_first=ovs_first):
            return f"{each} of another program drops or diverts packets that its hook would copy"
    return None
