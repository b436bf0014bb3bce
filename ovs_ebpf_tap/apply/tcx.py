"""Hooks attached by TCX links, which live by their pins."""

from __future__ import annotations

import contextlib
import os
from errno import EINVAL, EMFILE, ENFILE, ENODEV
from pathlib import Path

from ovs_ebpf_tap.ebpf import bpf
from ovs_ebpf_tap.model.desired import EGRESS, INGRESS, Hook
from ovs_ebpf_tap.util.probes import probe

_LOOKS = 32
"""Hooks whose revisions are read at once: there is a system call for each."""

_ATTACH_TYPES = {INGRESS: bpf.TCX_INGRESS, EGRESS: bpf.TCX_EGRESS}


def _revision(hook: Hook) -> int:
    """Of the device's TCX hook; 0 if the device is gone."""
    try:
        return bpf.tcx_revision(hook.ifindex, _ATTACH_TYPES[hook.direction])
    except OSError as error:
        if error.errno == ENODEV:
            return 0
        raise


class TcxLinks:
    """The links that are pinned in a directory, as `<ifindex>-<direction>`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._revisions: dict[Hook, int] = {}
        """Of the hooks, when our program was attached."""
        self._unseen: list[Hook] = []
        """The hooks that `has_drifted` has yet to look at."""
        self._dead_pins: list[Path] = []

    def read(self) -> dict[Hook, int]:
        """The id of each hook's program. Raises OSError."""
        self._dead_pins = []
        self._revisions = {}
        found: dict[Hook, int] = {}
        for pin in list(self.directory.iterdir()) if self.directory.is_dir() else []:
            try:
                fd = bpf.get(pin)
            except FileNotFoundError:
                continue  # The sidecar has removed it meanwhile; we are its status command.
            try:
                link = bpf.tcx_link(fd)
            except OSError as error:
                if error.errno != EINVAL:
                    raise
                continue  # Somebody else's pin.
            finally:
                os.close(fd)
            # Its device may be gone, or in another namespace by now.
            if not link.ifindex or not bpf.is_on_device(link):
                self._dead_pins.append(pin)
                continue
            direction = INGRESS if link.attach_type == bpf.TCX_INGRESS else EGRESS
            hook = Hook(link.ifindex, direction)
            found[hook] = link.program_id
            self._revisions[hook] = _revision(hook)
        return found

    def remove_dead_pins(self) -> None:
        """Removes the pins that `read` found without a device, once: a new link may be next."""
        while self._dead_pins:
            self._dead_pins.pop().unlink(missing_ok=True)

    def has_drifted(self) -> bool:
        """Whether somebody else changed a hook: looks at some, and at others when called again."""
        looked, self._unseen = self._unseen[:_LOOKS], self._unseen[_LOOKS:]
        if not self._unseen:
            self._unseen = list(self._revisions)
        return any(
            hook in self._revisions and self._revisions[hook] != _revision(hook) for hook in looked
        )

    def attach(self, hook: Hook, program: int) -> None:
        """Attaches the program, or puts it in the place of the link's. Raises OSError."""
        if not self._update(hook, program):
            self.directory.mkdir(mode=0o700, exist_ok=True)
            fd = bpf.create_tcx_link(program, hook.ifindex, _ATTACH_TYPES[hook.direction])
            probe("link made")
            try:
                bpf.pin(fd, self._pin(hook))
            finally:
                os.close(fd)
        self._revisions[hook] = _revision(hook)

    def _update(self, hook: Hook, program: int) -> bool:
        """Replaces the program of the hook's link; False if it has none that is alive."""
        pin = self._pin(hook)
        if not pin.exists():
            return False
        fd = bpf.get(pin)
        try:
            link = bpf.tcx_link(fd)
            if link.ifindex and bpf.is_on_device(link):
                bpf.update_link(fd, program)
                probe("link's program replaced")
                return True
        finally:
            os.close(fd)
        pin.unlink()
        return False

    def detach(self, hook: Hook) -> None:
        """Removes the hook's link; it may be gone already. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            try:
                fd = bpf.get(self._pin(hook))
            except OSError as error:
                if error.errno not in (EMFILE, ENFILE):
                    raise
            else:
                try:
                    bpf.detach_link(fd)
                    probe("link detached")
                finally:
                    os.close(fd)
        self.unpin(hook)

    def unpin(self, hook: Hook) -> None:
        """Lets the kernel remove the hook's link, if not at once."""
        self._pin(hook).unlink(missing_ok=True)
        self._revisions.pop(hook, None)

    def _pin(self, hook: Hook) -> Path:
        return self.directory / f"{hook.ifindex}-{hook.direction}"
