"""Tables of items, stored as the wire carries them: a read is a slice.

Coils and discrete inputs are packed eight to a byte, least significant first; registers are two
bytes each, high byte first. A table has all 65,536 items, or declared ranges with holes between.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final

from everbus.errors import ExceptionResponseError, UsageError
from everbus.protocol.codes import ITEMS_PER_TABLE, ExceptionCode
from everbus.protocol.values import AddressRange, pack_bits, pack_registers, unpack_bits, unpack_registers

__all__ = ["BitTable", "RegisterTable", "Table", "TableSpec"]

TableSpec = int | Iterable[AddressRange | tuple[int, int]] | None
"""How large a table is: None for all 65,536 items, a number of items from address 0, or ranges of
(address, count)."""

_ALL: Final = (AddressRange(0, ITEMS_PER_TABLE),)


def _ranges(spec: TableSpec) -> tuple[AddressRange, ...]:
    """Sorted, joined where they touch."""
    if spec is None:
        return _ALL
    if isinstance(spec, int):
        return (AddressRange(0, spec),) if spec else ()
    parts = sorted(part if isinstance(part, AddressRange) else AddressRange(*part) for part in spec)
    joined: list[AddressRange] = []
    for part in parts:
        if joined and part.address <= joined[-1].end:
            last = joined.pop()
            part = AddressRange(last.address, max(last.end, part.end) - last.address)  # noqa: PLW2901
        joined.append(part)
    return tuple(joined)


class Table:
    """Items of one table, 0-based PDU addresses; what a read or write touches must exist whole.

    Args:
        name: for messages: ``holding register``.
        spec: how large it is.
    """

    __slots__ = ("_dense_end", "_starts", "data", "name", "ranges")

    def __init__(self, name: str, spec: TableSpec = None) -> None:
        self.name: str = name
        self.ranges: tuple[AddressRange, ...] = _ranges(spec)
        self._starts = [part.address for part in self.ranges]
        self._dense_end = self.ranges[0].end if len(self.ranges) == 1 and self.ranges[0].address == 0 else 0
        # Never another object: readers keep it.
        self.data: Final[bytearray] = bytearray(self.bytes_for(self.ranges[-1].end if self.ranges else 0))

    def covers(self, address: int, count: int) -> bool:
        """Whether every item of a range exists."""
        end = address + count
        if end <= self._dense_end:
            return True
        index = bisect_right(self._starts, address) - 1
        return index >= 0 and end <= self.ranges[index].end

    def require(self, address: int, count: int) -> None:
        """Demand that every item of a range exists.

        Raises:
            ExceptionResponseError: exception 02.
        """
        if address < 0 or count < 1 or not self.covers(address, count):
            raise ExceptionResponseError(
                ExceptionCode.ILLEGAL_DATA_ADDRESS, message=f"{self.name} {address} ({count} items) does not exist here"
            )

    def read_wire(self, address: int, count: int) -> bytes | bytearray:
        """``count`` existing items as wire bytes; the caller has asked ``covers`` or ``require``."""
        raise NotImplementedError  # pragma: no cover

    def reader(self, address: int, count: int) -> Callable[[], bytes | bytearray]:
        """A function that does ``read_wire`` for these existing items, now and later."""
        return partial(self.read_wire, address, count)

    def write_wire(self, address: int, count: int, data: bytes) -> None:
        """Set ``count`` existing items from wire bytes; the caller has asked ``require``."""
        raise NotImplementedError  # pragma: no cover

    @staticmethod
    def bytes_for(items: int) -> int:
        """Wire bytes that so many items take."""
        raise NotImplementedError  # pragma: no cover

    def __repr__(self) -> str:
        return f"<{self.name}s {', '.join(map(str, self.ranges)) or 'none'}>"


class RegisterTable(Table):
    """Registers of 16 bits."""

    __slots__ = ()

    @staticmethod
    def bytes_for(items: int) -> int:
        return 2 * items

    def read_wire(self, address: int, count: int) -> bytearray:
        return self.data[2 * address : 2 * (address + count)]

    def reader(self, address: int, count: int) -> Callable[[], bytes | bytearray]:
        read: Callable[[slice], bytearray] = self.data.__getitem__
        return partial(read, slice(2 * address, 2 * (address + count)))

    def write_wire(self, address: int, count: int, data: bytes) -> None:
        self.data[2 * address : 2 * (address + count)] = data

    def read(self, address: int, count: int) -> list[int]:
        """``count`` registers from ``address`` on.

        Raises:
            ExceptionResponseError: exception 02: not all of them exist.
        """
        self.require(address, count)
        return unpack_registers(bytes(self.read_wire(address, count)))

    @staticmethod
    def pack(values: Sequence[int]) -> bytes:
        """Registers, 0..65535 each, as wire bytes.

        Raises:
            UsageError: a value does not fit 16 bits.
        """
        return pack_registers(values)


class BitTable(Table):
    """Coils or discrete inputs."""

    __slots__ = ()

    @staticmethod
    def bytes_for(items: int) -> int:
        return (items + 7) // 8

    def read_wire(self, address: int, count: int) -> bytes:
        first, shift = divmod(address, 8)
        size = (count + 7) // 8
        window = int.from_bytes(self.data[first : first + size + 1], "little") >> shift
        return (window & (1 << count) - 1).to_bytes(size, "little")

    def write_wire(self, address: int, count: int, data: bytes) -> None:
        first, shift = divmod(address, 8)
        size = (shift + count + 7) // 8
        mask = ((1 << count) - 1) << shift
        window = int.from_bytes(self.data[first : first + size], "little")
        bits = int.from_bytes(data, "little") << shift & mask
        self.data[first : first + size] = (window & ~mask | bits).to_bytes(size, "little")

    def read(self, address: int, count: int) -> list[bool]:
        """``count`` bits from ``address`` on.

        Raises:
            ExceptionResponseError: exception 02: not all of them exist.
        """
        self.require(address, count)
        return unpack_bits(self.read_wire(address, count), count)

    @staticmethod
    def pack(values: Sequence[int]) -> bytes:
        """Bits, each true or false, as wire bytes.

        Raises:
            UsageError: a value is neither.
        """
        if any(value not in (0, 1) for value in values):
            raise UsageError("bits are True and False (or 1 and 0)")
        return pack_bits(values)
