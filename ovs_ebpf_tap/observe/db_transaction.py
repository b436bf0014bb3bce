"""One transaction under way."""

from __future__ import annotations

import time
from typing import Any, Self

import ovs.db.idl
import ovs.poller
import structlog

from ovs_ebpf_tap.model.transaction import BridgeEdit, MirrorEdit, Transaction
from ovs_ebpf_tap.observe.replica import Replica

log = structlog.get_logger()


class DbTransaction:
    """A transaction that was begun, and is carried on by `run`."""

    def __init__(self, transaction: Any, *, reconfigures: bool, next_cfg: int | None) -> None:
        """`transaction` is python-ovs's; see `begin`."""
        self._transaction = transaction
        self.reconfigures = reconfigures
        """Whether it asks ovs-vswitchd to say when it has taken it in."""
        self._next_cfg = next_cfg
        """What it writes there; None if that is an increment."""
        self._succeeded = False
        self.begun = time.monotonic()

    @classmethod
    def begin(cls, replica: Replica, edits: Transaction) -> Self:
        """Rows that are gone by now are passed over.

        A Mirror whose `select_vlan` changed meanwhile makes it fail, and nothing is written.
        """
        transaction = ovs.db.idl.Transaction(replica)
        for mirror_edit in edits.mirrors:
            row = replica.tables["Mirror"].rows.get(mirror_edit.mirror)
            if row is not None:
                _edit_mirror(row, mirror_edit)
        for port_edit in edits.ports:
            row = replica.tables["Port"].rows.get(port_edit.port)
            if row is not None:
                row.protected = port_edit.protected
        for bridge_edit in edits.bridges:
            row = replica.tables["Bridge"].rows.get(bridge_edit.bridge)
            if row is not None:
                _edit_ids(row, bridge_edit)
        next_cfg = None
        if edits.reconfigure:
            top = next(iter(replica.tables["Open_vSwitch"].rows.values()))
            if edits.mirrors or edits.ports or edits.bridges:
                top.increment("next_cfg")
            else:  # python-ovs leaves out an increment where it is all.
                top.verify("next_cfg")
                next_cfg = top.next_cfg = top.next_cfg + 1
        return cls(transaction, reconfigures=edits.reconfigure, next_cfg=next_cfg)

    def run(self) -> bool:
        """Carries it on; returns whether it has ended."""
        status = self._transaction.commit()
        if status == ovs.db.idl.Transaction.INCOMPLETE:
            return False
        self._succeeded = status == ovs.db.idl.Transaction.SUCCESS
        if status not in (
            ovs.db.idl.Transaction.SUCCESS,
            ovs.db.idl.Transaction.UNCHANGED,
            ovs.db.idl.Transaction.TRY_AGAIN,
            ovs.db.idl.Transaction.NOT_LOCKED,
        ):
            log.warning("transaction failed", error=self._transaction.get_error())
        return True

    def wait(self, poller: ovs.poller.Poller) -> None:
        """Has the poller wake up when `run` has something to do."""
        self._transaction.wait(poller)

    @property
    def next_cfg(self) -> int:
        """What an ended one has written there; 0 if that is not known.

        Of one that was cut off nobody knows whether it was made.
        """
        if not self._succeeded:
            return 0
        return self._next_cfg or int(self._transaction.get_increment_new_value())


def _edit_mirror(row: Any, edit: MirrorEdit) -> None:
    if edit.select_vlan is not None:
        row.verify("select_vlan")
        row.select_vlan = list(edit.select_vlan)
    _edit_ids(row, edit)


def _edit_ids(row: Any, edit: MirrorEdit | BridgeEdit) -> None:
    for key, value in edit.set_ids.items():
        row.setkey("external_ids", key, value)
    for key in edit.delete_ids:
        row.delkey("external_ids", key)
