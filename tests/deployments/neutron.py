"""Bridges of Neutron's agent for Open vSwitch, with each of its firewalls."""

from __future__ import annotations

from collections.abc import Iterator

from deployments import neutron_flows
from deployments.neutron_flows import Guest, ProviderVlan
from deployments.rows import BridgePlan, PortKind, PortRow, Talk
from deployments.usual_mirrors import of_all_ports, usual_mirrors

_NETWORKS = (ProviderVlan(1, 1001), ProviderVlan(2, 1002))
_TUNNELED = 3
_VLANS = {"a1": 1, "a2": 1, "a3": 1, "b1": 2, "c1": _TUNNELED}
_FAR = Guest("vxlan-far", _TUNNELED)
_SECURE = {"fail_mode": "secure", "protocols": "OpenFlow10,OpenFlow13,OpenFlow14"}


def _guests(prefix: str) -> list[Guest]:
    return [Guest(f"{prefix}{name}", vlan) for name, vlan in _VLANS.items()]


def _plan(
    name: str, flows: Iterator[str], prefix: str = "tap", by_number: bool = False
) -> BridgePlan:
    """A host of two provider networks and a tunneled one; `tor` is the switch outside."""
    a1, a2, a3, b1, c1 = (f"{prefix}{guest}" for guest in _VLANS)
    kind: PortKind = "bridged" if prefix == "qvo" else "veth"
    return BridgePlan(
        name,
        bridge="br-int",
        bridges={"br-int": _SECURE, "br-ex": _SECURE, "br-tun": _SECURE, "tor": {}},
        ports={
            a1: PortRow("br-int", kind, tag=1),
            a2: PortRow("br-int", kind, tag=1),
            a3: PortRow("br-int", kind if kind == "bridged" else "tap", tag=1),
            b1: PortRow("br-int", kind, tag=2),
            c1: PortRow("br-int", kind, tag=_TUNNELED),
            "tapdhcp": PortRow("br-int", "internal", tag=1),
            "int-br-ex": PortRow("br-int", "patch", peer="phy-br-ex"),
            "phy-br-ex": PortRow("br-ex", "patch", peer="int-br-ex"),
            "patch-tun": PortRow("br-int", "patch", peer="patch-int"),
            "patch-int": PortRow("br-tun", "patch", peer="patch-tun"),
            _FAR.port: PortRow("br-tun"),
            "eth1": PortRow("br-ex", "pair", peer="tor1"),
            "tor1": PortRow("tor", "pair", peer="eth1"),
            "server": PortRow("tor", tag=1001),
            "probe": PortRow("tor"),
        },
        talks=[
            *(Talk(a1, a2), Talk(a2, a1), Talk(a3, a1), Talk(a1, a3), Talk("tapdhcp", a1)),
            *(Talk(a2, b1), Talk(a1, "server"), Talk("server", a1)),
            *(Talk("probe", a2, (1001,)), Talk("probe", b1, (1002,)), Talk("probe", a1, (77,))),
            *(Talk(c1, _FAR.port), Talk(_FAR.port, c1)),
        ],
        connections=[(a1, a2), (a1, "server"), (c1, _FAR.port)],
        mirrors=usual_mirrors(a1, a2, (a1, a2, a3), vlan=1),
        later=of_all_ports(offloaded=False) if by_number else (),
        flows={
            "br-int": list(flows),
            "br-ex": list(neutron_flows.provider(_NETWORKS)),
            "br-tun": list(neutron_flows.tunnels(_TUNNELED, 77, _FAR)),
        },
        by_number=by_number,
    )


def _without_firewall(prefix: str = "tap") -> Iterator[str]:
    yield from neutron_flows.switching(_NETWORKS)
    for guest in _guests(prefix):
        yield from neutron_flows.own_addresses(guest)


def _marking() -> Iterator[str]:
    yield from _without_firewall()
    yield from neutron_flows.marked(Guest("tapa2", 1), 46)


def _with_firewall() -> Iterator[str]:
    yield from _without_firewall()
    yield from neutron_flows.firewall(_guests("tap"), _NETWORKS)


PLANS = (
    _plan("neutron, noop", _without_firewall()),
    _plan("neutron, noop, DSCP marks", _marking()),
    _plan("neutron, iptables hybrid", _without_firewall("qvo"), "qvo"),
    _plan("neutron, openvswitch", _with_firewall(), by_number=True),
)
