"""The rows of a lab's database, read directly: a process for each look would take too long."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import Any

from ovs_ebpf_tap.model.desired import OFFLOADED
from ovs_ebpf_tap.model.rows import PARKED_VLANS, PROTECTED_KEY, SELECT_VLAN_KEY, STATE_KEY

_LONGEST = 1 << 20
_ANSWER = 2.0  # seconds
_COLUMNS = {"Mirror": ("name", "select_vlan", "external_ids"), "Port": ("name", "protected")}


@dataclass(frozen=True)
class MirrorRow:
    """What a Mirror row says of who copies."""

    select_vlan: tuple[int, ...]
    ids: dict[str, str]

    def is_right(self, state: str | None) -> bool:
        """Whether the mirror is `state`, whole; None has it be as if there were no sidecar."""
        offloaded = state == OFFLOADED
        return (
            self.ids.get(STATE_KEY) == state
            and (self.select_vlan == PARKED_VLANS) == offloaded
            and (SELECT_VLAN_KEY in self.ids) == offloaded
            and PROTECTED_KEY not in self.ids
        )


@dataclass(frozen=True)
class Rows:
    """The mirrors by name, and the names of protected ports."""

    mirrors: dict[str, MirrorRow]
    protected: set[str]


def read_rows(db: str) -> Rows:
    """The rows as they are. Raises OSError if the database does not answer."""
    operations = [
        {"op": "select", "table": table, "where": [], "columns": columns}
        for table, columns in _COLUMNS.items()
    ]
    request = {"method": "transact", "params": ["Open_vSwitch", *operations], "id": 0}
    mirrors, ports = (each["rows"] for each in _ask(db.removeprefix("unix:"), request)["result"])
    return Rows(
        {
            row["name"]: MirrorRow(tuple(_set(row["select_vlan"])), dict(row["external_ids"][1]))
            for row in mirrors
        },
        {row["name"] for row in ports if row["protected"]},
    )


def _ask(path: str, request: dict[str, Any]) -> Any:
    with socket.socket(socket.AF_UNIX) as opened:
        opened.settimeout(_ANSWER)
        opened.connect(path)
        opened.sendall(json.dumps(request).encode())
        answer = b""
        while True:
            data = opened.recv(_LONGEST)
            if not data:
                raise ConnectionError(f"{path} ended the connection")
            answer += data
            try:
                return json.loads(answer)
            except ValueError:
                continue  # There is more to come.


def _set(value: Any) -> list[int]:
    return list(value[1]) if isinstance(value, list) else [value]
