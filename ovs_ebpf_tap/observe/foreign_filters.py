"""Others' TC filters on devices, and the qdiscs that they are on."""

from __future__ import annotations

from collections.abc import Callable

from ovs_ebpf_tap.model import surroundings
from ovs_ebpf_tap.model.desired import INGRESS, PRIORITIES
from ovs_ebpf_tap.observe import tc


class ForeignFilters:
    """Knows the qdiscs for arrivals of all devices, and others' filters on those followed."""

    def __init__(self, receive: Callable[[frozenset[int]], None]) -> None:
        """`receive` has the kernel notify of the filters on these devices, by ifindex."""
        self._receive = receive
        self._followed: frozenset[int] = frozenset()
        self._qdiscs: dict[int, str] = {}
        """The kind of the qdisc for arrivals of each device that has one."""
        self._filters: dict[int, tuple[surroundings.ForeignFilter, ...]] = {}
        """Others' filters on the devices that are followed and have such a qdisc."""
        self._unread: set[int] = set()
        """Devices whose filters changed."""
        self._changed = False
        """Whether something changed since `update` last ended."""
        self.state = surroundings.State()
        """What others have on the devices that are followed, as of the last `update`."""

    def refresh(self) -> None:
        """Reads all of it anew. Raises OSError."""
        self._qdiscs = tc.list_ingress_qdiscs()
        self._unread |= self._filters.keys()
        self._changed = True
        self.update()

    def follow(self, ifindexes: frozenset[int]) -> None:
        """Has `state` tell of these devices. Raises OSError."""
        if ifindexes != self._followed:
            self._followed = ifindexes
            self._changed = True
            self.update()

    def take_qdisc(self, ifindex: int, kind: str | None) -> None:
        """Takes in that the device has such a qdisc for arrivals now; None for none."""
        self._filters.pop(ifindex, None)  # Of an earlier qdisc.
        if kind is not None:
            self._qdiscs[ifindex] = kind
        else:
            self._qdiscs.pop(ifindex, None)
        self._changed = True

    def take_filter(self, ifindex: int) -> None:
        """Takes in that filters on the device changed."""
        self._unread.add(ifindex)
        self._changed = True

    def forget(self, ifindex: int) -> None:
        """Takes in that the device is gone."""
        if self._qdiscs.pop(ifindex, None) is not None:
            self._changed = True

    def update(self) -> None:
        """Reads filters where they may have changed. Raises OSError; the next time it tries again.

        The kernel says that they changed, not what they are now.
        """
        if not self._changed:
            return
        followed = self._followed & self._qdiscs.keys()
        if followed != self._filters.keys():
            # Before they are read: what changes from then on is told.
            self._receive(followed)
            self._unread |= followed - self._filters.keys()
            self._filters = {index: self._filters.get(index, ()) for index in followed}
        for index in self._unread & followed:
            self._filters[index] = self._read(index)
            self._unread.discard(index)
        self._unread.clear()
        self._changed = False
        state = surroundings.State(
            frozenset(index for index in followed if self._qdiscs[index] == tc.INGRESS_QDISC),
            {index: filters for index, filters in self._filters.items() if filters},
        )
        if state != self.state:
            self.state = state

    def _read(self, ifindex: int) -> tuple[surroundings.ForeignFilter, ...]:
        """The filters of others on a device, in their order."""
        # An ingress qdisc has one chain, and takes it for egress, too.
        directions = tc.FILTER_PARENT if self._qdiscs[ifindex] == tc.CLSACT else (INGRESS,)
        found = tc.list_filters(ifindex, directions, PRIORITIES)
        return tuple(sorted(found, key=lambda each: (each.direction, each.chain, each.priority)))
