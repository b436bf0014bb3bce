"""Switches a mirror's mode as a user does, and restores the mode that it had."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Self
from uuid import UUID

from ovs_ebpf_tap.compare.figures import NATIVE, OFFLOADED
from ovs_ebpf_tap.daemon import control
from ovs_ebpf_tap.daemon.runtime import PATIENCE, Options, connect, transact, wait_db
from ovs_ebpf_tap.errors import TapError
from ovs_ebpf_tap.model.desired import keys_agree
from ovs_ebpf_tap.model.rows import (
    MODE_KEY,
    REASON_KEY,
    STATE_KEY,
    Bridge,
    Database,
    Mirror,
)
from ovs_ebpf_tap.model.transaction import MirrorEdit, Transaction
from ovs_ebpf_tap.observe.ovsdb import Ovsdb
from ovs_ebpf_tap.util.signals import EndingSignals
from ovs_ebpf_tap.util.text import printable

MODES = {OFFLOADED: "offload", NATIVE: "native"}

_REASON = 3.0
"""Seconds after which a reason for not being offloaded counts as final."""

_LOOK = 0.02  # seconds


def choose(db: Database, name: str) -> Mirror:
    """The mirror of that name or UUID. Raises TapError if there is none, or several."""
    found = [m for m in db.mirrors.values() if name in (m.name, str(m.uuid))]
    if not found:
        raise TapError(f"no mirror {name}: see ovs-vsctl list Mirror")
    if len(found) > 1:
        uuids = ", ".join(sorted(str(mirror.uuid) for mirror in found))
        raise TapError(f"several mirrors are called {name}: give a UUID, one of {uuids}")
    return found[0]


def bridge_of(db: Database, mirror: Mirror) -> Bridge:
    """The mirror's bridge. Raises TapError if it is on several."""
    found = [bridge for bridge in db.bridges.values() if mirror.uuid in bridge.mirrors]
    if len(found) != 1:
        where = ", ".join(sorted(bridge.name for bridge in found)) or "no bridge"
        raise TapError(f"mirror {mirror.name} is on {where}: it is to be on one")
    return found[0]


class ModeSwitcher:
    """Switches one mirror. Its mode was `before`; None if its row had none."""

    def __init__(
        self, options: Options, ovsdb: Ovsdb, mirror: Mirror, signals: EndingSignals
    ) -> None:
        self._options = options
        self._signals = signals
        self._ovsdb = ovsdb
        self.uuid = mirror.uuid
        self.name = printable(mirror.name)
        self.before = mirror.external_ids.get(MODE_KEY)

    @classmethod
    def open(cls, options: Options, name: str, signals: EndingSignals) -> Self:
        """Raises TapError if the database does not answer, or has no such mirror."""
        ovsdb = connect(options.ovsdb)
        try:
            return cls(options, ovsdb, choose(ovsdb.snapshot(), name), signals)
        except TapError:
            ovsdb.close()
            raise

    def close(self) -> None:
        """Drops the connection."""
        self._ovsdb.close()

    @property
    def db(self) -> Database:
        """The rows as they are."""
        return self._ovsdb.snapshot()

    @property
    def mirror(self) -> Mirror:
        """The row as it is. Raises TapError if it is gone."""
        mirror = self.db.mirrors.get(self.uuid)
        if mirror is None:
            raise TapError(f"mirror {self.name} was removed")
        return mirror

    def move(self, variant: str, hooked: Callable[[], bool]) -> None:
        """Sets the mode for OFFLOADED or NATIVE, and waits until running flows follow it.

        The sidecar is settled once Open vSwitch has revalidated them.

        `hooked` tells whether hooks copy for it. Raises TapError if it does not come about.
        """
        _write_mode(self._ovsdb, self.uuid, MODES[variant])
        begun = time.monotonic()
        deadline = begun + 2 * PATIENCE
        while not (
            self._is(variant)
            and hooked() == (variant == OFFLOADED)
            and control.is_settled(self._options.run_dir)
        ):
            self._check(variant, begun)
            wait_db(self._ovsdb, deadline)
            self._signals.sleep(_LOOK)

    def check_still(self, variant: str) -> None:
        """Raises TapError if the mirror is not in that state any more."""
        self._ovsdb.run()
        if not self._is(variant):
            raise TapError(f"mirror {self.name} did not stay {variant} while it was read")

    def _is(self, variant: str) -> bool:
        db, mirror = self.db, self.mirror
        return (
            mirror.external_ids.get(STATE_KEY) == variant
            and keys_agree(mirror.external_ids)
            and mirror.parked == (variant == OFFLOADED)
            and db.cur_cfg >= db.next_cfg
        )

    def _check(self, variant: str, begun: float) -> None:
        ids = self.mirror.external_ids
        state, passed = ids.get(STATE_KEY), time.monotonic() - begun
        reason = printable(ids.get(REASON_KEY, "no reason is given"))
        if state not in (None, variant, OFFLOADED) and passed > _REASON:
            raise TapError(f"mirror {self.name} is {state}, not {variant}: {reason}")
        if variant == OFFLOADED and self._is(variant) and passed > _REASON:
            raise TapError(f"no hook copies for mirror {self.name}: has it ports with devices?")
        if not control.is_running(self._options.run_dir):
            raise TapError(f"the sidecar has ended, so mirror {self.name} is not {variant}")
        if passed > PATIENCE:
            raise TapError(
                f"mirror {self.name} was not {variant} within {PATIENCE:.0f} s: does the sidecar "
                f"work beside {self._options.ovsdb}, and ovs-vswitchd run?"
            )

    def restore(self) -> None:
        """Restores the mirror's mode; does nothing if the mirror was removed.

        Raises TapError, with the command that does it, if the database does not take it.
        """
        try:
            _write_mode(self._ovsdb, self.uuid, self.before)
        except TapError as error:
            raise TapError(f"{error}; give {self.name} its mode back: {self._by_hand}") from None

    @property
    def _by_hand(self) -> str:
        if self.before is None:
            return f"ovs-vsctl remove Mirror {self.uuid} external_ids {MODE_KEY}"
        return f"ovs-vsctl set Mirror {self.uuid} external_ids:{MODE_KEY}={self.before}"


def _write_mode(ovsdb: Ovsdb, uuid: UUID, mode: str | None) -> None:
    """Sets the row's mode, or removes it, and waits until the row shows it. Raises TapError."""
    edit = (
        MirrorEdit(uuid, delete_ids=(MODE_KEY,))
        if mode is None
        else MirrorEdit(uuid, set_ids={MODE_KEY: mode})
    )
    deadline = time.monotonic() + PATIENCE
    while True:
        mirror = ovsdb.snapshot().mirrors.get(uuid)
        if mirror is None or (mirror.external_ids.get(MODE_KEY) == mode and not ovsdb.busy):
            return
        # A transaction comes to nothing where the connection was lost meanwhile.
        transact(ovsdb, Transaction((edit,)))
        wait_db(ovsdb, deadline)
