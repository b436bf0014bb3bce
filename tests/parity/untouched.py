"""What offloading must leave as it was: the ports' devices, and the rows of OVSDB."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ovs_ebpf_tap.lab.netns import Netns
from ovs_ebpf_tap.lab.switch import Switch

Surroundings = dict[str, Any]
"""Everything by a name that says what it is."""

# Columns that OVS itself writes, whenever it likes.
_VOLATILE = {
    "Port": {"bond_active_slave", "rstp_statistics", "rstp_status", "statistics", "status"},
    "Interface": {
        *("admin_state", "link_resets", "link_speed", "link_state", "duplex", "lacp_current"),
        *("statistics", "status", "cfm_fault", "cfm_fault_status", "cfm_flap_count", "cfm_health"),
        *("cfm_remote_mpids", "cfm_remote_opstate", "bfd_status"),
    },
}


def surroundings(switch: Switch, devices: Collection[str]) -> Surroundings:
    """What can be seen of the devices, and of all rows of the tables Port and Interface."""
    found: Surroundings = {}
    for link in _links(switch.ns, devices):
        found[f"link {link['ifname']}"] = link
    found["qdiscs"] = sorted(_qdiscs(switch.ns, devices))
    found |= _features(switch.ns, devices)
    for table in _VOLATILE:
        found |= _rows(switch, table)
    return found


def changes(before: Surroundings, after: Surroundings) -> Iterator[str]:
    """One line for each difference."""
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old != new and isinstance(old, dict) and isinstance(new, dict):
            for key in sorted(old.keys() | new.keys()):
                if old.get(key) != new.get(key):
                    yield f"{name}: {key} was {old.get(key)!r} and is {new.get(key)!r}"
        elif old != new:
            yield f"{name} was {old!r} and is {new!r}"


def _links(ns: Netns, devices: Collection[str]) -> Iterator[dict[str, Any]]:
    for link in json.loads(ns.run("ip", "-json", "-details", "link", "show").stdout):
        if link["ifname"] in devices:
            yield link


def _qdiscs(ns: Netns, devices: Collection[str]) -> Iterator[str]:
    """All but clsact, which is there for our filters."""
    for qdisc in json.loads(ns.run("tc", "-json", "qdisc", "show").stdout):
        if qdisc["dev"] in devices and qdisc["kind"] != "clsact":
            yield json.dumps(qdisc, sort_keys=True)


def _features(ns: Netns, devices: Collection[str]) -> Surroundings:
    names = sorted(devices)
    script = 'for device; do printf "== %s\\n" "$device"; ethtool -k "$device"; done'
    printed = ns.run("sh", "-c", script, "sh", *names).stdout
    sections = [section.split("\n", 1) for section in printed.split("== ")[1:]]
    return {
        f"features of {device}": dict(line.strip().split(": ", 1) for line in text.splitlines()[1:])
        for device, text in sections
    }


def _rows(switch: Switch, table: str) -> Mapping[str, Any]:
    printed = json.loads(switch.vsctl("--format=json", "list", table))
    rows = [dict(zip(printed["headings"], row, strict=True)) for row in printed["data"]]
    return {
        f"{table} {row['name']}": {k: v for k, v in row.items() if k not in _VOLATILE[table]}
        for row in rows
    }
