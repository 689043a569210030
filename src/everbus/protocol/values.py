"""Values that cannot be wrong once built, and the packing of bits and registers.

Bits travel least significant first, eight to a byte (AP 6.1); registers travel high byte first
(AP 4.2). Both are kept as wire bytes wherever speed matters.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from struct import Struct, pack, unpack
from struct import error as struct_error
from typing import Final

from everbus.errors import UsageError
from everbus.protocol.codes import ITEMS_PER_TABLE

__all__ = ["AddressRange", "check_unit", "pack_bits", "pack_registers", "unpack_bits", "unpack_registers"]

_MOST_PACKED: Final = 250
_REGISTERS: Final = [Struct(f">{count}H") for count in range(_MOST_PACKED // 2 + 1)]
"""For every number of registers that a response carries: reading a format takes longer than using it."""


@dataclass(frozen=True, slots=True, order=True)
class AddressRange:
    """A run of items of one table, in 0-based PDU addresses: ``address .. address + count - 1``.

    Args:
        address: first item, 0..65535.
        count: how many, at least 1; the last one is at most 65535 (no wrap, spec.md 1.4).

    Raises:
        UsageError: it leaves the table.
    """

    address: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.address < ITEMS_PER_TABLE:
            raise UsageError(f"address {self.address} is outside 0..65535")
        if self.count < 1 or self.end > ITEMS_PER_TABLE:
            raise UsageError(f"{self.count} items from address {self.address} leave the table of 0..65535")

    @property
    def end(self) -> int:
        """First address behind the range."""
        return self.address + self.count

    def __str__(self) -> str:
        return f"{self.address}..{self.end - 1}"


def check_unit(unit: int) -> int:
    """Give back a unit identifier, 0..255 (spec.md 4.3).

    Raises:
        UsageError: it is not one.
    """
    if not 0 <= unit <= 255:
        raise UsageError(f"unit {unit} is outside 0..255")
    return unit


def pack_bits(bits: Iterable[bool | int]) -> bytes:
    """Bits to wire bytes; unused high bits of the last byte are zero."""
    values = list(bits)
    packed = 0
    for position, bit in enumerate(values):
        if bit:
            packed |= 1 << position
    return packed.to_bytes((len(values) + 7) // 8, "little")


def unpack_bits(data: bytes, count: int) -> list[bool]:
    """The first ``count`` bits of wire bytes."""
    packed = int.from_bytes(data, "little")
    return [bool(packed >> position & 1) for position in range(count)]


def pack_registers(values: Sequence[int]) -> bytes:
    """Registers, 0..65535 each, to wire bytes.

    Raises:
        UsageError: a value does not fit 16 bits.
    """
    try:
        return pack(f">{len(values)}H", *values)
    except struct_error as error:
        raise UsageError(f"registers are whole numbers of 0..65535: {error}") from error


def unpack_registers(data: bytes) -> list[int]:
    """Wire bytes, an even number of them, to registers."""
    return list(
        _REGISTERS[len(data) // 2].unpack(data) if len(data) <= _MOST_PACKED else unpack(f">{len(data) // 2}H", data)
    )
