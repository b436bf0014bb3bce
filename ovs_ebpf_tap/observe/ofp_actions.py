"""What OpenFlow instructions and actions, as bytes, can do to a packet that a mirror selects.

The formats are those of `include/openflow/*.h` and `lib/ofp-actions.c`. What is malformed raises
ValueError or struct.error. An action that is not known here is taken to do anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from struct import Struct

MODIFIES = 1
OUTPUTS = 2
REPEATS = 4
_ANYTHING = MODIFIES | OUTPUTS | REPEATS
"""Traits of flows."""

_U16 = Struct("!H")
_U32 = Struct("!I")
_TYPE_LENGTH = Struct("!HH")

_NX = 0x00002320
_ONF = 0x4F4E4600

_GOTO_TABLE, _WRITE_METADATA, _WRITE_ACTIONS, _APPLY_ACTIONS, _CLEAR_ACTIONS, _METER = range(1, 7)
_INSTRUCTION_HEADER = 8


@lru_cache(maxsize=4096)
def traits_of_instructions(instructions: bytes) -> int:
    """What a flow's instructions do: MODIFIES, OUTPUTS, REPEATS, or none of them."""
    traits = 0
    for kind, at, length in _elements(instructions):
        if kind in (_WRITE_ACTIONS, _APPLY_ACTIONS):
            traits |= traits_of_actions(instructions[at + _INSTRUCTION_HEADER : at + length])
        elif kind not in (_GOTO_TABLE, _WRITE_METADATA, _CLEAR_ACTIONS, _METER):
            traits |= _ANYTHING
    return traits


def _elements(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Type, place and length of each element."""
    at = 0
    while at < len(data):
        kind, length = _TYPE_LENGTH.unpack_from(data, at)
        if length < 8 or at + length > len(data):
            raise ValueError("an action's length is wrong")
        yield kind, at, length
        at += length


# OFPP_NORMAL forwards with the bridge's VLANs and copies once; the others leave by no port.
_NO_OUTPUT = (0xFFFFFFFA, 0xFFFFFFFD, 0xFFFFFFFF)
# OFPP_NORMAL, OFPP_FLOOD and OFPP_ALL stand for several ports, OFPP_IN_PORT for none of these.
_SEVERAL = {0xFFFFFFFA, 0xFFFFFFFB, 0xFFFFFFFC}
_IN_PORT = 0xFFFFFFF8
_NOWHERE = (0xFFFFFFFD, 0xFFFFFFFF)

_OUTPUT, _SET_FIELD, _COPY_FIELD, _VENDOR = 0, 25, 28, 0xFFFF
_PLAIN_ACTIONS = {
    # OpenFlow 1.1's, which OVS keeps to where a flow does not say whose ports they are.
    9: MODIFIES,  # set_tp_src
    10: MODIFIES,  # set_tp_dst
    11: MODIFIES,  # copy_ttl_out
    12: MODIFIES,  # copy_ttl_in
    15: MODIFIES,  # set_mpls_ttl
    16: MODIFIES,  # dec_mpls_ttl
    17: MODIFIES,  # push_vlan
    18: MODIFIES,  # pop_vlan
    19: MODIFIES,  # push_mpls
    20: MODIFIES,  # pop_mpls
    21: 0,  # set_queue
    23: MODIFIES,  # set_nw_ttl
    24: MODIFIES,  # dec_nw_ttl
    29: 0,  # meter
}
# Group and learn are missing: groups are not looked into, and learned flows come and go.
_NX_ACTIONS = {
    1: 0,  # resubmit
    2: 0,  # set_tunnel
    4: 0,  # set_queue
    5: 0,  # pop_queue
    8: 0,  # note
    9: 0,  # set_tunnel64
    12: OUTPUTS,  # bundle
    14: 0,  # resubmit(,table)
    15: OUTPUTS,  # output:NXM_NX_REG0[]
    17: 0,  # exit
    18: MODIFIES,  # dec_ttl
    19: 0,  # fin_timeout
    20: 0,  # controller
    21: MODIFIES,  # dec_ttl(id,...)
    22: 0,  # write_metadata
    27: 0,  # push
    29: 0,  # sample
    32: OUTPUTS,  # output:reg, with an OXM of any length
    34: 0,  # conjunction
    36: MODIFIES,  # nat
    37: 0,  # controller
    38: 0,  # sample
    39: MODIFIES | OUTPUTS,  # output(port=...,max_len=...)
    41: 0,  # sample
    43: 0,  # ct_clear
    44: 0,  # resubmit(,table,ct)
    46: MODIFIES,  # encap
    47: MODIFIES,  # decap
    48: MODIFIES,  # dec_nsh_ttl
    50: 0,  # delete_field, of tunnel metadata
    51: 0,  # sample
}
# Where the fields begin that these write, as OXM headers.
# reg_load, multipath, bundle_load, pop, reg_load2, check_pkt_larger
_NX_WRITES = {7: 12, 10: 28, 13: 24, 28: 12, 33: 10, 49: 14}
_NX_MOVE = 6, 16
_ONF_COPY_FIELD = 3200, 20
_NX_NESTS = {35: 24, 42: 16}  # ct, clone: where the actions in them begin


def traits_of_actions(actions: bytes) -> int:
    """What actions do: MODIFIES, OUTPUTS, REPEATS, or none of them.

    MODIFIES stands for all that changes the packet, and for fields of its tunnel. REPEATS: may
    send it to one port more than once.
    """
    traits = 0
    outputs: list[int] = []
    for kind, at, length in _elements(actions):
        action = actions[at : at + length]
        if kind == _OUTPUT:
            (port,) = _U32.unpack_from(action, 4)
            traits |= 0 if port in _NO_OUTPUT else OUTPUTS
            if port not in _NOWHERE:
                outputs.append(port)
        elif kind == _SET_FIELD:
            traits |= _written(action, 4)
        elif kind == _COPY_FIELD:
            traits |= _moved(action, 12)
        elif kind == _VENDOR:
            traits |= _vendor_action(action)
        else:
            traits |= _PLAIN_ACTIONS.get(kind, _ANYTHING)
    return traits | (REPEATS if _may_repeat(outputs) else 0)


def _may_repeat(ports: list[int]) -> bool:
    """Whether outputs to these ports may send to one of them more than once."""
    others = [port for port in ports if port != _IN_PORT]
    several = len(others) > 1 and not _SEVERAL.isdisjoint(others)
    return several or len(set(ports)) < len(ports)


def _vendor_action(action: bytes) -> int:
    (vendor,) = _U32.unpack_from(action, 4)
    (subtype,) = _U16.unpack_from(action, 8) if len(action) > 8 else (None,)
    if vendor == _ONF and subtype == _ONF_COPY_FIELD[0]:
        return _moved(action, _ONF_COPY_FIELD[1])
    if vendor != _NX or subtype is None:
        return _ANYTHING
    if subtype in _NX_WRITES:
        return _written(action, _NX_WRITES[subtype])
    if subtype == _NX_MOVE[0]:
        return _moved(action, _NX_MOVE[1])
    if subtype in _NX_NESTS:
        return traits_of_actions(action[_NX_NESTS[subtype] :])
    return _NX_ACTIONS.get(subtype, _ANYTHING)


_OXM = Struct("!HB")
_OXM_EXPERIMENTER = 0xFFFF


def _numbers(oxm_class: int, fields: Iterable[int]) -> set[tuple[int, int]]:
    return {(oxm_class, number) for number in fields}


# `mf_is_any_metadata` in `lib/meta-flow.c`, by class and number. Tunnel fields other than
# `tun_metadata` are none to it.
_METADATA = {
    *_numbers(0x0000, [0]),  # in_port
    *_numbers(0x0001, range(16)),  # reg0 to reg15
    *_numbers(0x0001, [33, 35, 36, 37]),  # pkt_mark, dp_hash, recirc_id, conj_id
    *_numbers(0x0001, range(40, 104)),  # tun_metadata0 to tun_metadata63
    *_numbers(0x0001, range(105, 109)),  # ct_state, ct_zone, ct_mark, ct_label
    *_numbers(0x0001, range(111, 126)),  # xxreg0 to xxreg7, and ct's original tuple
    *_numbers(0x8000, [0, 2, 44]),  # in_port, metadata, packet_type
    *_numbers(0x8001, range(128)),  # xreg0 and on
}


def _is_metadata(action: bytes, at: int) -> bool:
    oxm_class, number = _OXM.unpack_from(action, at)
    return (oxm_class, number >> 1) in _METADATA


def _written(action: bytes, at: int) -> int:
    """A field written, by whatever action."""
    return 0 if _is_metadata(action, at) else MODIFIES


def _moved(action: bytes, at: int) -> int:
    """One field copied into another, whose header follows the first one's."""
    (source_class,) = _U16.unpack_from(action, at)
    return _written(action, at + (8 if source_class == _OXM_EXPERIMENTER else 4))
