"""Arguments of ovs-vsctl."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

# A value for a column: text goes to ovs-vsctl as it is, so that "10,20", "[]" or "@id" work.
Column = str | int | bool | Sequence[str | int] | Mapping[str, str]


class HasPort(Protocol):
    """What is at a port: a host, a bond or a tap device."""

    @property
    def port(self) -> str:
        """The port's name."""


Port = str | HasPort


class PortReferences:
    """ovs-vsctl's `--id=@... get Port ...`, once for each port, and the names so given."""

    def __init__(self) -> None:
        self.gets: list[str] = []
        self._names: dict[str, str] = {}

    def of(self, ports: Iterable[Port]) -> list[str]:
        """The names of these ports."""
        return [self._identifier(port_name(port)) for port in ports]

    def _identifier(self, port: str) -> str:
        if port not in self._names:
            identifier = f"@port{len(self._names)}"
            self._names[port] = identifier
            self.gets += [f"--id={identifier}", "get", "Port", port, "--"]
        return self._names[port]


def port_name(port: Port) -> str:
    """The name of the Port row, which is its interface's, too, unless it is a bond."""
    return port if isinstance(port, str) else port.port


def column_settings(values: Mapping[str, Column]) -> list[str]:
    """Columns in ovs-vsctl's syntax; a mapping becomes one setting for each key."""
    settings = []
    for column, value in values.items():
        if isinstance(value, Mapping):
            settings += [f"{column}:{key}={json.dumps(item)}" for key, item in value.items()]
        else:
            settings.append(f"{column}={_value(value)}")
    return settings


def _value(value: str | int | bool | Sequence[str | int]) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int):
        return str(value)
    return ",".join(map(str, value)) or "[]"
