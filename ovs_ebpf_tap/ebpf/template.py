"""Binds constants and maps to programs' code before it is loaded.

So what bcc has compiled once serves any kernel, and `tap_specialized` and `tap_output`
(`bpf/specialized.h`) are loaded for each hook with its rule as constants.

Instructions are those of `struct bpf_insn` in Linux's `include/uapi/linux/bpf.h`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from struct import Struct

from ovs_ebpf_tap import abi

_INSTRUCTION = Struct("=BBhi")
_LOAD_64 = 0x18  # BPF_LD | BPF_IMM | BPF_DW, of two instructions
_MAP_FD = 1  # BPF_PSEUDO_MAP_FD, in the upper half of the registers' byte
_ATOMIC_32 = 0xC3  # BPF_STX | BPF_ATOMIC | BPF_W
_ADD = 0
_EXCHANGE = 0xE1  # BPF_XCHG, Linux 5.12

_MARK = abi.constant("CONSTANT_MARK")


def _loads(code: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Place, registers, and both halves of each load of 64 bits."""
    at = 0
    while at < len(code):
        opcode, registers, _, low = _INSTRUCTION.unpack_from(code, at)
        if opcode == _LOAD_64:
            *_, high = _INSTRUCTION.unpack_from(code, at + _INSTRUCTION.size)
            yield at, registers, low & 0xFFFFFFFF, high & 0xFFFFFFFF
            at += _INSTRUCTION.size
        at += _INSTRUCTION.size


def _set_load(code: bytearray, at: int, registers: int, value: int) -> None:
    _INSTRUCTION.pack_into(code, at, _LOAD_64, registers, 0, _signed(value & 0xFFFFFFFF))
    _INSTRUCTION.pack_into(code, at + _INSTRUCTION.size, 0, 0, 0, _signed(value >> 32))


def _signed(half: int) -> int:
    """The half of 64 bits as an instruction holds it."""
    return half - (half >> 31 << 32)


def with_exchanges(code: bytes) -> bytes:
    """The code with an atomic exchange in the place of each atomic addition of 32 bits.

    bcc's compiler knows no other; the programs have no use for an addition.
    """
    made = bytearray(code)
    for at in range(0, len(code), _INSTRUCTION.size):
        opcode, registers, offset, operation = _INSTRUCTION.unpack_from(code, at)
        if opcode == _ATOMIC_32 and operation == _ADD:
            _INSTRUCTION.pack_into(made, at, opcode, registers, offset, _EXCHANGE)
    return bytes(made)


def name_maps(code: bytes, map_fds: Sequence[int]) -> bytes:
    """The code of a program that was compiled with these maps, naming each by its place.

    Raises ValueError if it uses another map.
    """
    made = bytearray(code)
    for at, registers, low, _ in _loads(code):
        if registers >> 4 == _MAP_FD:
            _set_load(made, at, registers, map_fds.index(low))
    return bytes(made)


def bind_global_constants(code: bytes, constants: Mapping[int, int]) -> bytes:
    """The code with these constants, by number; others are left for `bind_program`."""
    made = bytearray(code)
    for at, registers, low, high in _loads(code):
        if high == _MARK and registers >> 4 != _MAP_FD and low in constants:
            _set_load(made, at, registers, constants[low])
    return bytes(made)


def bind_program(code: bytes, constants: Mapping[int, int], map_fds: Sequence[int]) -> bytes:
    """The code of a program with these constants, by number; those not named are 0.

    It may be a template out of a map, with zeroes behind it: a program ends with an exit or a jump.
    """
    size = _INSTRUCTION.size
    made = bytearray(code[: -(-len(code.rstrip(b"\0")) // size) * size])
    for at, registers, low, high in _loads(bytes(made)):
        if registers >> 4 == _MAP_FD:
            _set_load(made, at, registers, map_fds[low])
        elif high == _MARK:
            _set_load(made, at, registers, constants.get(low, 0))
    return bytes(made)
