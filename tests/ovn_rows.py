"""What ovn-controller does to Mirror rows, transaction by transaction."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Collection
from typing import Any, Self

from ovs_ebpf_tap.lab.switch import Host, Switch

GAP = 0.012
"""Seconds from the transaction that deletes rows to the one that makes them anew, as measured."""


class OvnRows:
    """A connection to the database that makes and deletes rows of one mirror of br0.

    See `mirror_run` in OVN's `controller/mirror.c`.
    """

    def __init__(
        self, switch: Switch, name: str, src: Collection[Host], dst: Collection[Host], output: Host
    ) -> None:
        self._switch = switch
        self._name = name
        self._columns = {
            "select_src_port": self._ports(src),
            "select_dst_port": self._ports(dst),
            "output_port": self._ports([output]),
        }
        self._socket = socket.socket(socket.AF_UNIX)
        self._uuid: list[str] = []

    def __enter__(self) -> Self:
        self._socket.connect(self._switch.db.removeprefix("unix:"))
        self._switch.vsctl("set", "Open_vSwitch", ".", "external_ids:ovn-remote=unix:/nowhere")
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _ports(self, hosts: Collection[Host]) -> list[Any]:
        found = [self._switch.vsctl("get", "Port", host.port, "_uuid") for host in hosts]
        return ["set", [["uuid", uuid] for uuid in found]]

    def create(self) -> None:
        """As `create_ovs_mirror` and `sync_ovs_mirror_ports`."""
        row = {
            "name": self._name,
            "external_ids": ["map", [["ovn-owned", "true"]]],
            **self._columns,
        }
        insert = {"op": "insert", "table": "Mirror", "row": row, "uuid-name": "m"}
        made, _ = self._transact(insert, self._mutate("insert", ["named-uuid", "m"]))
        self._uuid = made["uuid"]

    def delete(self) -> None:
        """As `delete_ovs_mirror`."""
        where = [["_uuid", "==", self._uuid]]
        self._transact(
            self._mutate("delete", self._uuid), {"op": "delete", "table": "Mirror", "where": where}
        )

    def restart(self, gap: float = GAP) -> None:
        """As ovn-controller's start."""
        self.delete()
        time.sleep(gap)
        self.create()

    def redirect(self, output: Host) -> None:
        """As a change of a mirror's sink."""
        self._columns["output_port"] = self._ports([output])
        row = {"output_port": self._columns["output_port"]}
        where = [["_uuid", "==", self._uuid]]
        self._transact({"op": "update", "table": "Mirror", "where": where, "row": row})

    @staticmethod
    def _mutate(how: str, uuid: list[str]) -> dict[str, Any]:
        where = [["name", "==", "br0"]]
        mutations = [["mirrors", how, ["set", [uuid]]]]
        return {"op": "mutate", "table": "Bridge", "where": where, "mutations": mutations}

    def _transact(self, *operations: dict[str, Any]) -> list[dict[str, Any]]:
        """As the IDL does, which has ovs-vswitchd say when it has taken the change in."""
        count = {
            "op": "mutate",
            "table": "Open_vSwitch",
            "where": [],
            "mutations": [["next_cfg", "+=", 1]],
        }
        request = {"id": 0, "method": "transact", "params": ["Open_vSwitch", *operations, count]}
        self._socket.sendall(json.dumps(request).encode())
        decoder, text = json.JSONDecoder(), ""
        while True:
            text += self._socket.recv(1 << 16).decode()
            try:
                reply, _ = decoder.raw_decode(text)
            except ValueError:
                continue
            results: list[dict[str, Any]] = reply["result"]
            errors = [each for each in results if each and "error" in each]
            assert not errors, errors
            return results[:-1]
