"""Filters of sidecars on clsact qdiscs, in pyroute2's messages.

They are known by their name: behind `NAME`, the build that they run, a mark if the qdisc was made
for them, and the id of the program if it is the hook's own. Their handle is their owner.
"""

from __future__ import annotations

from dataclasses import dataclass
from socket import htons
from typing import Any

from pyroute2.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST
from pyroute2.netlink.rtnl import RTM_NEWTFILTER
from pyroute2.netlink.rtnl.tcmsg import tcmsg

from ovs_ebpf_tap.observe import tc

NAME = "ovs-ebpf-tap/"
_QDISC_MADE = "+"

ETH_P_ALL = 3

_DIRECT_ACTION = 1  # TCA_BPF_FLAG_ACT_DIRECT
_EGRESS_MIRROR = 2  # TCA_EGRESS_MIRROR
_CONTINUE = -1  # TC_ACT_UNSPEC: the filters behind see the packet, too


@dataclass(frozen=True)
class Filter:
    """A filter of a sidecar on a clsact qdisc."""

    ifindex: int
    direction: str
    owner: int
    """The sidecar that it is of, as `pinning.owner` has it."""
    build: str
    made: bool
    """Whether the qdisc was made for it, or for another filter of its owner."""
    program: int
    """Id of the hook's own program; 0 if it has none."""
    action: int
    """Ifindex of the device that its action copies to; 0 if it has none."""
    untagged: bool = False
    """Whether the program is behind it that takes copy tags off."""


def parse(ifindex: int, direction: str, message: Any) -> Filter | None:
    """The filter of a sidecar that a message tells of, if it does."""
    if message.get_attr("TCA_KIND") != "bpf":
        return None  # Of some kinds, pyroute2 leaves the options as they are.
    options = message.get_attr("TCA_OPTIONS")
    name = options.get_attr("TCA_BPF_NAME") if options else None
    # One that is not UTF-8 comes as bytes.
    if not isinstance(name, str) or not name.startswith(NAME):
        return None
    build, _, program = name.removeprefix(NAME).partition("#")
    actions = options.get_attr("TCA_BPF_ACT")
    mirred = actions.get_attr("TCA_ACT_PRIO_1") if actions else None
    parameters = mirred.get_attr("TCA_ACT_OPTIONS") if mirred else None
    return Filter(
        ifindex,
        direction,
        owner=message["handle"],
        build=build.removesuffix(_QDISC_MADE),
        made=build.endswith(_QDISC_MADE),
        program=int(program) if program.isdecimal() else 0,
        action=parameters.get_attr("TCA_MIRRED_PARMS")["ifindex"] if parameters else 0,
    )


def name(build: str, program: int, *, made: bool) -> str:
    """The name of a filter: see `Filter`."""
    return NAME + build + _QDISC_MADE * made + (f"#{program}" if program else "")


def priority(message: Any) -> int:
    """The preference of the filter that a message tells of."""
    return int(message["info"]) >> 16


def new(
    ifindex: int,
    direction: str,
    priority: int,
    owner: int,
    name: str,
    program_fd: int,
    mirror_to: int = 0,
) -> Any:
    """A request to add a filter with a program, or to replace it.

    The program says what becomes of a packet, or, with `mirror_to`, selects those that are copied
    to the egress of the device of that ifindex.
    """
    what = ["TCA_BPF_ACT", _mirror(mirror_to)] if mirror_to else ["TCA_BPF_FLAGS", _DIRECT_ACTION]
    options = {"attrs": [["TCA_BPF_FD", program_fd], ["TCA_BPF_NAME", name], what]}
    message = tcmsg()
    message["index"] = ifindex
    message["parent"] = tc.FILTER_PARENT[direction]
    message["handle"] = owner
    message["info"] = htons(ETH_P_ALL) | priority << 16
    message["attrs"] = [["TCA_KIND", "bpf"], ["TCA_OPTIONS", options]]
    message["header"]["type"] = RTM_NEWTFILTER
    message["header"]["flags"] = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE
    return message


def _mirror(ifindex: int) -> dict[str, Any]:
    """An action that copies to a device's egress."""
    parameters = {"action": _CONTINUE, "eaction": _EGRESS_MIRROR, "ifindex": ifindex}
    options = {"attrs": [["TCA_MIRRED_PARMS", parameters]]}
    action = {"attrs": [["TCA_ACT_KIND", "mirred"], ["TCA_ACT_OPTIONS", options]]}
    return {"attrs": [["TCA_ACT_PRIO_1", action]]}
