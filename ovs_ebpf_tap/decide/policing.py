"""What policers and other TC filters mean for a hook: does it see the packets that OVS sees?

`__netif_receive_skb_core` (`net/core/dev.c`) hands an arriving packet to packet sockets, then to
TCX programs and TC filters, then to the kernel's datapath. `__dev_queue_xmit` has TCX programs and
TC filters first, then the device. So what TC drops on arrival, the kernel's datapath does not see,
but a packet socket of the userspace datapath does; what the host sends through an internal device,
OVS sees last; and what leaves the switch, OVS has seen before TC.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from ovs_ebpf_tap.model.desired import PRIORITY
from ovs_ebpf_tap.model.reasons import port_reasons
from ovs_ebpf_tap.model.surroundings import ForeignFilter

COOL_DOWN = 10.0
"""Seconds that a device is left to other programs' ingress qdiscs before it gets a clsact one."""


def is_looked_at_first(*, arrival: bool, netdev: bool, internal: bool) -> bool:
    """Whether OVS sees a port's packets before TC does.

    `arrival`: packets that arrive in the switch, not those that leave; `netdev`: the userspace
    datapath forwards; `internal`: the device is one of the switch itself.
    """
    return not arrival or (netdev and not internal)


def misses(each: ForeignFilter, *, clsact: bool, ovs_first: bool) -> bool:
    """Whether the filter keeps packets from our hook that OVS sees.

    A TCX program of ours comes before all filters, a filter of ours behind those of lower
    preference, and what these take or end does not get to it.
    """
    return _is_before(each, clsact=clsact) and (each.ends or (each.takes and ovs_first))


def exceeds(each: ForeignFilter, *, clsact: bool, ovs_first: bool) -> bool:
    """Whether our hook sees packets that the filter then keeps from OVS."""
    return each.takes and not ovs_first and not _is_before(each, clsact=clsact)


def _is_before(each: ForeignFilter, *, clsact: bool) -> bool:
    """Other chains are jumped to, from wherever: what gets there is taken to have been copied."""
    return clsact and each.chain == 0 and each.priority < PRIORITY


def obstacle(filters: Iterable[ForeignFilter], *, clsact: bool, ovs_first: bool) -> str | None:
    """Why a hook behind or before these filters can't copy what OVS would; None if it can."""
    for each in filters:
        if misses(each, clsact=clsact, ovs_first=ovs_first):
            return port_reasons.FILTER_BEFORE_HOOK.told(filter=each)
        if exceeds(each, clsact=clsact, ovs_first=ovs_first):
            return port_reasons.FILTER_BEHIND_HOOK.told(filter=each)
    return None


class CoolDown:
    """Devices that other programs may be about to police.

    A clsact qdisc excludes their ingress qdisc, and their command fails. A hypervisor plugs a new
    tap in some commands, and to change a limit removes the ingress qdisc and adds another.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until: dict[int, tuple[float, str]] = {}
        self._reserved: Mapping[int, str] = {}

    def begin(self, devices: Collection[int], why: str, now: float) -> None:
        """Leaves devices, by ifindex, alone from now on; `now` is of the monotonic clock."""
        if not devices or not self._seconds:
            return
        words = port_reasons.COOLING_DOWN.told(event=why, seconds=self._seconds)
        self._until.update(dict.fromkeys(devices, (now + self._seconds, words)))

    def reserved(self, now: float) -> Mapping[int, str]:
        """Why devices are left alone, by ifindex; the same object if the same."""
        self._until = {i: each for i, each in self._until.items() if each[0] > now}
        found = {ifindex: words for ifindex, (_, words) in self._until.items()}
        if found != self._reserved:
            self._reserved = found
        return self._reserved
