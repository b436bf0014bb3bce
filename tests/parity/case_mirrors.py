"""A case's mirrors as rows of the database, and what the sidecar says of them there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ovs_ebpf_tap.model.desired import NATIVE, OFFLOADED, OffloadDecision
from ovs_ebpf_tap.model.rows import MODE_KEY, REASON_KEY, SELECT_VLAN_KEY, STATE_KEY
from parity.case import CaseMirror

_MODE_IS_NATIVE = f"{MODE_KEY} is native"
_NOT_YET = "are not known (yet)"


def create_mirrors(
    mirrors: Sequence[CaseMirror], bridge: str, port_rows: Mapping[str, str]
) -> list[str]:
    """Arguments of ovs-vsctl that add them; `port_rows` are names of Port rows by the case's."""
    names = sorted({port for mirror in mirrors for port in _ports_of(mirror)})
    ids = {port: f"@p{number}" for number, port in enumerate(names)}
    arguments = []
    for port, identifier in ids.items():
        arguments += ["--", f"--id={identifier}", "get", "Port", port_rows[port]]
    for number, mirror in enumerate(mirrors):
        name = mirror_name(bridge, number)
        arguments += ["--", f"--id=@m{number}", "create", "Mirror", f"name={name}"]
        arguments += _columns(mirror, ids)
        arguments += ["--", "add", "Bridge", bridge, "mirrors", f"@m{number}"]
    return arguments


def mirror_name(bridge: str, number: int) -> str:
    """The name of the case's mirror, the first being number 0."""
    return f"{bridge}-m{number + 1}"


def as_expected(mirror: CaseMirror, decision: OffloadDecision | None) -> bool:
    """Whether the sidecar says of the mirror what the case says."""
    if decision is None or decision.state != mirror.state:
        return False
    return mirror.reason in (decision.reason or "")


def decision_of(ids: Mapping[str, str]) -> OffloadDecision | None:
    """What a row's external_ids say; None while the mirror is on the move."""
    state, reason = ids.get(STATE_KEY), ids.get(REASON_KEY)
    moving = (state == OFFLOADED) != (SELECT_VLAN_KEY in ids)
    waiting = reason == _MODE_IS_NATIVE or _NOT_YET in (reason or "")
    if state is None or moving or (state == NATIVE and waiting):
        return None
    return OffloadDecision(state, reason)


def _ports_of(mirror: CaseMirror) -> list[str]:
    output = [] if mirror.output is None else [mirror.output]
    return [*mirror.src.split(), *mirror.dst.split(), *output]


def _columns(mirror: CaseMirror, ids: Mapping[str, str]) -> list[str]:
    """The Mirror row's columns that are set, as arguments of ovs-vsctl."""
    values = {
        "select_src_port": ",".join(ids[port] for port in mirror.src.split()),
        "select_dst_port": ",".join(ids[port] for port in mirror.dst.split()),
        "select_all": "true" if mirror.select_all else "",
        "output_port": ids[mirror.output] if mirror.output else "",
        "output_vlan": "" if mirror.output_vlan is None else str(mirror.output_vlan),
        "select_vlan": ",".join(map(str, mirror.select_vlan)),
        # No mode at all is another reason than that of mirrors which are on their way.
        f"external_ids:{MODE_KEY}": "none" if mirror.native else "",
        "snaplen": "" if mirror.snaplen is None else str(mirror.snaplen),
    }
    return [f"{column}={value}" for column, value in values.items() if value]
