"""Somebody else's programs on TC hooks."""

from __future__ import annotations

import os
import socket

from ovs_ebpf_tap.ebpf import bpf
from ovs_ebpf_tap.lab.names import unique_name
from ovs_ebpf_tap.lab.resource import Resource
from ovs_ebpf_tap.lab.sidecar_process import BPFFS
from ovs_ebpf_tap.lab.switch import Switch


class ForeignPrograms(Resource):
    """A program that has every packet go on, and where it is attached."""

    def __init__(self, switch: Switch) -> None:
        self._switch = switch
        self._pin = BPFFS / unique_name("foreign")
        self._program = -1
        self.links: dict[str, int] = {}
        """The descriptors of TCX links, by device."""
        self.filters: set[str] = set()
        """The devices with a filter."""
        self.qdiscs: set[str] = set()
        """The devices with a clsact qdisc that is not the sidecar's to remove."""

    def open(self) -> None:
        """Load the program."""
        self._program = bpf.load_classifier(bpf.EMPTY, "foreign")
        bpf.pin(self._program, self._pin)

    def close(self) -> None:
        """Remove it; filters go with their devices."""
        for device in list(self.links):
            self.forget(device)
        self._pin.unlink(missing_ok=True)
        if self._program >= 0:
            os.close(self._program)
            self._program = -1

    def attach_link(self, device: str) -> None:
        """Attach a TCX link to the device's ingress."""
        self.links[device] = self._switch.ns.call(
            lambda: bpf.create_tcx_link(
                self._program, socket.if_nametoindex(device), bpf.TCX_INGRESS
            )
        )

    def attach_filter(self, device: str) -> None:
        """Attach a clsact filter to the device's egress."""
        if device not in self.qdiscs:
            self._switch.ns.run("tc", "qdisc", "replace", "dev", device, "clsact")
            self.qdiscs.add(device)
        where = ("dev", device, "egress", "pref", "5", "protocol", "all")
        self._switch.ns.run("tc", "filter", "add", *where, "bpf", "da", "pinned", str(self._pin))
        self.filters.add(device)

    def detach(self, device: str) -> None:
        """Take off what is on the device, which is there; the qdisc stays."""
        if device in self.links:
            os.close(self.links.pop(device))
        if device in self.filters:
            self._switch.ns.run("tc", "filter", "del", "dev", device, "egress", "pref", "5")
            self.filters.remove(device)

    def forget(self, device: str) -> None:
        """The device is gone."""
        if device in self.links:
            os.close(self.links.pop(device))
        self.filters.discard(device)
        self.qdiscs.discard(device)
