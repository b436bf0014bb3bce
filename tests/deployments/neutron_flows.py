"""Flows such as Neutron's agent for Open vSwitch writes, and its firewall of flows.

The numbers of tables, their priorities and the use of registers are those of Neutron 2026.1
(`neutron/plugins/ml2/drivers/openvswitch/agent/openflow/native/`, and
`neutron/agent/linux/openvswitch_firewall/`), with options as they come.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

# Tables of br-int.
SPOOFED_ARP, SPOOFED_MAC = 24, 25
LOCAL_EGRESS, LOCAL_IP = 30, 31
PACKET_RATE, BANDWIDTH = 58, 59
TRANSIENT, TRANSIENT_EGRESS = 60, 62
BASE_EGRESS, RULES_EGRESS, ACCEPT_OR_INGRESS = 71, 72, 73
BASE_INGRESS, RULES_INGRESS = 81, 82
ACCEPTED_EGRESS, ACCEPTED_INGRESS, DROPPED, ACCEPTED_NORMAL = 91, 92, 93, 94

# Tables of br-tun.
FROM_BR_INT, FROM_TUNNEL, LEARN, UNICAST, ARP_RESPONDER, FLOOD = 2, 4, 10, 20, 21, 22

PORT, NET = "reg5", "reg6"
_INVALID_MARK = 1
_DEAD_VLAN = 4095
_COOKIE = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class Guest:
    """A port with a machine, by its name, in a local VLAN."""

    port: str
    vlan: int

    @property
    def number(self) -> str:
        """What stands for its OpenFlow number in a flow of a plan."""
        return f"{{{self.port}}}"

    @property
    def mac(self) -> str:
        """What stands for the machine's Ethernet address."""
        return f"{{{self.port}.mac}}"

    @property
    def ip(self) -> str:
        """What stands for the machine's IPv4 address."""
        return f"{{{self.port}.ip}}"

    @property
    def ip6(self) -> str:
        """What stands for the machine's IPv6 address."""
        return f"{{{self.port}.ip6}}"


@dataclass(frozen=True)
class ProviderVlan:
    """A network on a provider's wire: the local VLAN, and the VLAN there."""

    vlan: int
    segment: int


def _flow(table: int, priority: int, match: str, actions: str) -> str:
    fields = [f"cookie={_COOKIE:#x}", f"table={table}", f"priority={priority}"]
    return ",".join([*fields, *([match] if match else []), f"actions={actions}"])


def _to(table: int) -> str:
    return f"resubmit(,{table})"


# br-int, whatever the firewall.


def switching(networks: Iterable[ProviderVlan]) -> Iterator[str]:
    """What br-int does with any packet, and with what comes from the provider."""
    yield _flow(0, 65535, f"dl_vlan={_DEAD_VLAN}", "drop")
    yield _flow(0, 0, "", _to(PACKET_RATE))
    for network in networks:
        match = f"in_port={{int-br-ex}},dl_vlan={network.segment}"
        yield _flow(0, 3, match, f"mod_vlan_vid:{network.vlan},{_to(PACKET_RATE)}")
    yield _flow(0, 2, "in_port={int-br-ex}", "drop")
    yield _flow(23, 0, "", "drop")
    yield _flow(SPOOFED_ARP, 0, "", "drop")
    yield _flow(LOCAL_EGRESS, 0, "", _to(PACKET_RATE))
    yield _flow(LOCAL_IP, 0, "", _to(PACKET_RATE))
    yield _flow(PACKET_RATE, 0, "", _to(BANDWIDTH))
    yield _flow(BANDWIDTH, 0, "", _to(TRANSIENT))
    yield _flow(TRANSIENT, 1, "", "NORMAL")
    yield _flow(TRANSIENT_EGRESS, 3, "", "NORMAL")


def own_addresses(guest: Guest) -> Iterator[str]:
    """Has a machine send with its own addresses only."""
    here = f"in_port={guest.number}"
    yield _flow(0, 10, f"{here},arp", _to(SPOOFED_ARP))
    yield _flow(0, 10, f"{here},icmp6,icmp_type=136", _to(SPOOFED_ARP))
    yield _flow(0, 9, here, _to(SPOOFED_MAC))
    own = f"{here},arp,arp_spa={guest.ip}"
    yield _flow(SPOOFED_ARP, 2, own, _to(SPOOFED_MAC))
    own = f"{here},icmp6,icmp_type=136,nd_target={guest.ip6}"
    yield _flow(SPOOFED_ARP, 2, own, _to(PACKET_RATE))
    yield _flow(SPOOFED_MAC, 2, f"{here},dl_src={guest.mac}", _to(LOCAL_EGRESS))
    network = f"set_field:{guest.vlan}->{NET},resubmit({guest.number},{LOCAL_IP})"
    yield _flow(LOCAL_EGRESS, 10, here, network)


def marked(guest: Guest, dscp: int) -> Iterator[str]:
    """Marks what a machine sends."""
    actions = f"set_field:1->reg2,mod_nw_tos:{dscp << 2},resubmit:{guest.number}"
    for protocol in ("ip", "ipv6"):
        yield _flow(0, 65535, f"in_port={guest.number},reg2=0,{protocol}", actions)


# br-int, with a firewall of flows.


def firewall(guests: Iterable[Guest], networks: Iterable[ProviderVlan]) -> Iterator[str]:
    """A firewall that lets machines talk to all, and take TCP, ICMP and most of UDP."""
    tables = (*range(BASE_EGRESS, ACCEPT_OR_INGRESS + 1), BASE_INGRESS, RULES_INGRESS)
    for table in (*tables, ACCEPTED_INGRESS, DROPPED):
        yield _flow(table, 0, "", "drop")
    yield _flow(BASE_EGRESS, 110, "ct_state=+trk", f"ct_clear,{_to(BASE_EGRESS)}")
    yield _flow(ACCEPTED_EGRESS, 1, "", _to(ACCEPTED_NORMAL))
    yield _flow(ACCEPTED_NORMAL, 1, "", "NORMAL")
    segments = {network.vlan: network.segment for network in networks}
    for number, guest in enumerate(guests, 1):
        yield from _classify(guest, segments.get(guest.vlan))
        yield from _base_egress(guest)
        yield from _accept_or_ingress(guest)
        yield from _base_ingress(guest)
        yield from _tracked(guest, RULES_EGRESS, _to(ACCEPTED_NORMAL))
        yield from _tracked(guest, RULES_INGRESS, f"output:{guest.number}")
        yield from _egress_rules(guest)
        yield from _ingress_rules(guest, 8 * number)


def _classify(guest: Guest, segment: int | None) -> Iterator[str]:
    known = f"set_field:{guest.number}->{PORT},set_field:{guest.vlan}->{NET}"
    match = f"in_port={guest.number}"
    yield _flow(TRANSIENT, 100, match, f"{known},{_to(BASE_EGRESS)}")
    for vlan in (guest.vlan, *([] if segment is None else [segment])):
        match = f"dl_dst={guest.mac},dl_vlan={vlan:#x}"
        yield _flow(TRANSIENT, 90, match, f"{known},strip_vlan,{_to(BASE_INGRESS)}")


def _base_egress(guest: Guest) -> Iterator[str]:
    here = f"in_port={guest.number},{PORT}={guest.number}"
    mac, ip, ip6 = guest.mac, guest.ip, guest.ip6
    track = f"ct(table={RULES_EGRESS},zone=NXM_NX_REG6[0..15])"
    accepted, dropped = _to(ACCEPTED_NORMAL), _to(DROPPED)
    yield _flow(BASE_EGRESS, 95, f"{here},arp,dl_src={mac},arp_spa={ip}", accepted)
    yield _flow(BASE_EGRESS, 95, f"{here},rarp,dl_src={mac}", accepted)
    for kind in (130, 133, 135, 143):
        match = f"{here},icmp6,dl_src={mac},ipv6_src={ip6},icmp_type={kind}"
        yield _flow(BASE_EGRESS, 95, match, accepted)
    yield _flow(BASE_EGRESS, 95, f"{here},icmp6,icmp_type=136,nd_target={ip6}", accepted)
    yield _flow(BASE_EGRESS, 65, f"{here},ip,dl_src={mac},nw_src={ip}", track)
    yield _flow(BASE_EGRESS, 65, f"{here},ipv6,dl_src={mac},ipv6_src={ip6}", track)
    for source in (ip, "0.0.0.0"):
        match = f"{here},udp,dl_src={mac},nw_src={source},tp_src=68,tp_dst=67"
        yield _flow(BASE_EGRESS, 80, match, _to(ACCEPT_OR_INGRESS))
    yield _flow(BASE_EGRESS, 70, f"{here},udp,tp_src=67,tp_dst=68", dropped)
    yield _flow(BASE_EGRESS, 70, f"{here},icmp6,icmp_type=134", dropped)
    yield _flow(BASE_EGRESS, 10, here, f"ct_clear,{dropped}")


def _accept_or_ingress(guest: Guest) -> Iterator[str]:
    local = f"dl_dst={guest.mac},{NET}={guest.vlan}"
    actions = f"set_field:{guest.number}->{PORT},{_to(BASE_INGRESS)}"
    yield _flow(ACCEPT_OR_INGRESS, 100, local, actions)
    for protocol in ("ip", "ipv6"):
        match = f"{protocol},{PORT}={guest.number},ct_state=+new-est"
        commit = f"ct(commit,zone=NXM_NX_REG6[0..15]),{_to(ACCEPTED_EGRESS)}"
        yield _flow(ACCEPT_OR_INGRESS, 90, match, commit)
    yield _flow(ACCEPT_OR_INGRESS, 80, f"{PORT}={guest.number}", _to(ACCEPTED_NORMAL))


def _base_ingress(guest: Guest) -> Iterator[str]:
    here, out = f"{PORT}={guest.number}", f"output:{guest.number}"
    yield _flow(BASE_INGRESS, 100, f"{here},arp", out)
    for kind in (130, 134, 135, 136):
        yield _flow(BASE_INGRESS, 100, f"{here},icmp6,icmp_type={kind}", out)
    yield _flow(BASE_INGRESS, 95, f"{here},udp,tp_src=67,tp_dst=68", out)
    for protocol in ("ip", "ipv6"):
        track = f"ct(table={RULES_INGRESS},zone=NXM_NX_REG6[0..15])"
        yield _flow(BASE_INGRESS, 90, f"{here},{protocol},ct_state=-trk", track)
    yield _flow(BASE_INGRESS, 80, f"{here},ct_state=+trk", _to(RULES_INGRESS))


def _tracked(guest: Guest, table: int, accepted: str) -> Iterator[str]:
    """What becomes of packets of connections that there are."""
    here, dropped = f"{PORT}={guest.number}", _to(DROPPED)
    yield _flow(table, 50, "ct_state=+inv+trk", dropped)
    yield _flow(table, 50, f"{here},ct_mark={_INVALID_MARK}", dropped)
    for state in ("+est-rel+rpl", "-new-est+rel-inv"):
        match = f"{here},ct_state={state},ct_zone={guest.vlan},ct_mark=0"
        yield _flow(table, 50, match, accepted)
    yield _flow(table, 40, f"{here},ct_state=-est", dropped)
    mark = f"ct(commit,zone=NXM_NX_REG6[0..15],exec(set_field:{_INVALID_MARK}->ct_mark))"
    for protocol in ("ip", "ipv6"):
        yield _flow(table, 40, f"{here},{protocol},ct_state=+est", mark)


def _egress_rules(guest: Guest) -> Iterator[str]:
    for protocol in ("ip", "ipv6"):
        for state in ("+est-rel-rpl", "+new-est"):
            match = f"{PORT}={guest.number},{protocol},ct_state={state}"
            yield _flow(RULES_EGRESS, 74, match, _to(ACCEPT_OR_INGRESS))


def _ingress_rules(guest: Guest, first: int) -> Iterator[str]:
    """TCP and ICMP by rules of one match, UDP to ports below 16384 by conjunctions from `first`."""
    out = f"output:{guest.number}"
    commit = f"ct(commit,zone=NXM_NX_REG6[0..15]),{out},{_to(ACCEPTED_INGRESS)}"
    here = f"{PORT}={guest.number}"
    for protocol in ("tcp", "icmp", "tcp6", "icmp6"):
        for state, actions in (("+est-rel-rpl", out), ("+new-est", commit)):
            yield _flow(RULES_INGRESS, 77, f"{here},{protocol},ct_state={state}", actions)
    states = (("+est-rel-rpl", out, first), ("+new-est", commit, first + 1))
    for state, actions, number in states:
        match = f"{here},udp,ct_state={state}"
        for ports in ("0x2000/0xe000", "0/0xe000"):
            each = f"{match},tp_dst={ports}"
            yield _flow(RULES_INGRESS, 73, each, f"conjunction({number},2/2)")
        match = f"ip,{NET}={guest.vlan},ct_state={state},nw_src=10.0.0.0/24"
        yield _flow(RULES_INGRESS, 73, match, f"conjunction({number},1/2)")
        match = f"conj_id={number},ip,{here},ct_state={state}"
        yield _flow(RULES_INGRESS, 73, match, f"set_field:{number}->reg7,{actions}")


# The other bridges.


def provider(networks: Iterable[ProviderVlan]) -> Iterator[str]:
    """A provider's bridge."""
    yield _flow(0, 0, "", "NORMAL")
    for network in networks:
        match = f"in_port={{phy-br-ex}},dl_vlan={network.vlan}"
        yield _flow(0, 4, match, f"mod_vlan_vid:{network.segment},NORMAL")
    yield _flow(0, 2, "in_port={phy-br-ex}", "drop")


def tunnels(vlan: int, tunnel_id: int, remote: Guest) -> Iterator[str]:
    """br-tun with one network, a port that stands for a tunnel, and one machine behind it."""
    yield _flow(0, 1, "in_port={patch-int}", _to(FROM_BR_INT))
    yield _flow(0, 1, f"in_port={remote.number}", _to(FROM_TUNNEL))
    yield _flow(0, 0, "", "drop")
    group = "01:00:00:00:00:00/01:00:00:00:00:00"
    yield _flow(FROM_BR_INT, 1, "arp,dl_dst=ff:ff:ff:ff:ff:ff", _to(ARP_RESPONDER))
    yield _flow(FROM_BR_INT, 0, "dl_dst=00:00:00:00:00:00/01:00:00:00:00:00", _to(UNICAST))
    yield _flow(FROM_BR_INT, 0, f"dl_dst={group}", _to(FLOOD))
    known = f"push_vlan:0x8100,set_field:{0x1000 | vlan}->vlan_vid,goto_table:{LEARN}"
    yield _flow(FROM_TUNNEL, 1, "tun_id=0", known)
    yield _flow(FROM_TUNNEL, 0, "", "drop")
    learned = (
        f"learn(table={UNICAST},hard_timeout=300,priority=1,cookie={_COOKIE:#x},"
        "NXM_OF_VLAN_TCI[0..11],NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[],load:0->NXM_OF_VLAN_TCI[],"
        "load:NXM_NX_TUN_ID[]->NXM_NX_TUN_ID[],output:NXM_OF_IN_PORT[])"
    )
    yield _flow(LEARN, 1, "", f"{learned},output:{{patch-int}}")
    out = f"pop_vlan,set_field:{tunnel_id}->tun_id,output:{remote.number}"
    yield _flow(UNICAST, 2, f"dl_vlan={vlan},dl_dst={remote.mac}", out)
    yield _flow(UNICAST, 0, "", _to(FLOOD))
    yield _flow(ARP_RESPONDER, 1, f"arp,dl_vlan={vlan},arp_tpa={remote.ip}", _reply(remote))
    yield _flow(ARP_RESPONDER, 0, "", _to(FLOOD))
    yield _flow(FLOOD, 1, f"dl_vlan={vlan}", out)
    yield _flow(FLOOD, 0, "", "drop")


def _reply(remote: Guest) -> str:
    """Turns an ARP request into the answer, and sends it back."""
    return ",".join(
        [
            "move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[]",
            f"set_field:{remote.mac}->eth_src",
            "set_field:2->arp_op",
            "move:NXM_NX_ARP_SHA[]->NXM_NX_ARP_THA[]",
            "move:NXM_OF_ARP_SPA[]->NXM_OF_ARP_TPA[]",
            f"set_field:{remote.mac}->arp_sha",
            f"set_field:{remote.ip}->arp_spa",
            "IN_PORT",
        ]
    )
