"""Hooks attached by filters on clsact qdiscs, which are ours or somebody else's."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Set

from ovs_ebpf_tap.apply.attachment import Attachment
from ovs_ebpf_tap.apply.tc_filter import Filter
from ovs_ebpf_tap.apply.traffic_control import TrafficControl
from ovs_ebpf_tap.ebpf import bpf
from ovs_ebpf_tap.ebpf.programs import Programs
from ovs_ebpf_tap.model.desired import Hook
from ovs_ebpf_tap.util import unexpected
from ovs_ebpf_tap.util.probes import probe


class ClsactFilters:
    """Our filters, and the qdiscs that they are on, as the qdiscs map notes them."""

    def __init__(self, traffic_control: TrafficControl, opened: Programs) -> None:
        self._traffic_control = traffic_control
        self._programs = opened
        self._map = opened.maps["qdiscs"]
        self._qdiscs: dict[int, bool] = {}
        """Whether the qdisc was made by us, by ifindex."""

    @property
    def qdiscs(self) -> Mapping[int, bool]:
        """The devices, by ifindex, that have or had filters; whether their qdisc is ours."""
        return self._qdiscs

    def read(self) -> dict[Hook, Filter]:
        """Reads the qdiscs map back; returns our filters on these devices. Raises OSError."""
        self._qdiscs = {
            int.from_bytes(key, sys.byteorder): any(value)
            for key, value in self._map.items().items()
        }
        return {
            Hook(each.ifindex, each.direction): each
            for ifindex in self._qdiscs
            for each in self._filters(ifindex)
        }

    def _filters(self, ifindex: int) -> list[Filter]:
        try:
            return self._traffic_control.filters(ifindex)
        except OSError:
            raise
        except Exception as error:  # Whatever others have there.
            unexpected.reason(f"filters of device {ifindex}", error)
            return []

    def note(self, ifindex: int, ours: bool) -> None:
        """Notes that a device has filters of ours, and whether its qdisc is ours."""
        self._map.set(bpf.u32(ifindex), bpf.u32(ours))
        self._qdiscs[ifindex] = ours
        probe("qdisc noted")

    def attach(self, hook: Hook, attachment: Attachment, program: int, number: int) -> None:
        """Makes the hook's filter, or replaces it. Raises OSError.

        `number` is the program's id, 0 for the shared one.
        """
        noted = self._qdiscs.get(hook.ifindex)
        if not noted and (ours := self._makes_qdisc(hook.ifindex)) != noted:
            # Noted before it is made, so that a crash in between leaves nothing unknown. Another
            # program's, noted earlier, may have been removed since.
            self.note(hook.ifindex, ours)
        self._traffic_control.ensure_clsact(hook.ifindex)
        probe("qdisc made")
        if attachment.tags:
            self._traffic_control.ensure_untag(hook.ifindex, hook.direction, self._programs.untag)
            probe("program that untags attached")
        self._traffic_control.replace_filter(
            hook.ifindex,
            hook.direction,
            program,
            self._programs.build,
            number,
            attachment.action,
            made=self._qdiscs[hook.ifindex],
        )
        if not attachment.tags:
            self._traffic_control.remove_untag(hook.ifindex, hook.direction)

    def _makes_qdisc(self, ifindex: int) -> bool:
        """Whether the clsact qdisc is to be made by us, or was: filters tell if pins were lost."""
        if self._traffic_control.ingress_qdisc(ifindex) is None:
            return True
        return any(each.made for each in self._traffic_control.filters(ifindex))

    def detach(self, hook: Hook) -> None:
        """Removes the hook's filter if its device may have one. Raises OSError."""
        if hook.ifindex in self._qdiscs:
            self._traffic_control.remove_filter(hook.ifindex, hook.direction)
            probe("filter removed")

    def remove_qdiscs(self, used: Set[int], *, hw_offload: bool) -> None:
        """Removes the qdiscs that were made for hooks that are gone, and forgets the others'.

        `used` holds the devices that still have filters, by ifindex. With `hw_offload`, Open
        vSwitch wants the ingress of the others.
        """
        for ifindex in self._qdiscs.keys() - used:
            if self._qdiscs[ifindex]:
                probe("qdisc about to go")
                self._traffic_control.remove_clsact(ifindex, hw_offload=hw_offload)
                probe("qdisc removed")
                self._traffic_control.announce(ifindex)
            self._map.delete(bpf.u32(ifindex))
            del self._qdiscs[ifindex]
            probe("qdisc forgotten")
