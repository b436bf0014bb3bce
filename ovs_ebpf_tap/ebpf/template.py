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
_STRUCTS = ("global", "hook", "rule", "port", "rewrite", "prefilter", "shortcut")
_NUMBERS = {
    f"{struct}.{member}": abi.constant(f"CONSTANT_{struct.upper()}") << 16 | offset
    for struct in _STRUCTS
    for member, offset in abi.layout(struct).offsets.items()
}
"""Constants by name: `rule.output` is `struct tap_rule`'s `output`."""

_NAMES = {number: name for name, number in _NUMBERS.items()}


class UnboundConstantError(Exception):
    """A program is to be loaded, but this constant has no value."""

    def __init__(self, name: str) -> None:
        super().__init__(f"constant {name} is not bound")


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


def bind_global_constants(code: bytes, constants: Mapping[str, int]) -> bytes:
    """The code with these constants, by name; others are left for `bind_program`."""
    values = _by_number(constants)
    made = bytearray(code)
    for at, registers, low, high in _loads(code):
        if high == _MARK and registers >> 4 != _MAP_FD and low in values:
            _set_load(made, at, registers, values[low])
    return bytes(made)


def bind_program(code: bytes, constants: Mapping[str, int], map_fds: Sequence[int]) -> bytes:
    """The code of a program with these constants, by name, and these maps.

    It may be a template out of a map, with zeroes behind it: a program ends with an exit or a jump.
    Raises UnboundConstantError if the code has another constant, and KeyError on a name that is
    none's.
    """
    values = _by_number(constants)
    size = _INSTRUCTION.size
    made = bytearray(code[: -(-len(code.rstrip(b"\0")) // size) * size])
    for at, registers, low, high in _loads(bytes(made)):
        if registers >> 4 == _MAP_FD:
            _set_load(made, at, registers, map_fds[low])
        elif high == _MARK:
            if low not in values:
                raise UnboundConstantError(_NAMES.get(low, f"number {low:#x}"))
            _set_load(made, at, registers, values[low])
    return bytes(made)


def _by_number(constants: Mapping[str, int]) -> dict[int, int]:
    return {_NUMBERS[name]: value for name, value in constants.items()}
