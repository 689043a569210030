"""Points: a place in a device's tables, and what is to be found there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Self, cast

from everbus.errors import ConfigurationError, InvalidRequestError, UsageError
from everbus.maps.codec import codec_for
from everbus.maps.datatypes import DataType, Format, Scalar, Value
from everbus.maps.order import ABCD
from everbus.maps.packing import Codec
from everbus.protocol.values import AddressRange, check_unit

__all__ = ["Point", "Table", "reference"]

_ALIASES: Final = {
    "c": "coil",
    "co": "coil",
    "do": "coil",
    "d": "discrete",
    "di": "discrete",
    "discrete_input": "discrete",
    "i": "input",
    "ir": "input",
    "input_register": "input",
    "h": "holding",
    "hr": "holding",
    "holding_register": "holding",
}


class Table(StrEnum):
    """The four tables of a device (AP 4.3); ``Table("h")`` and ``Table("HR")`` find them too."""

    COIL = "coil"
    DISCRETE = "discrete"
    INPUT = "input"
    HOLDING = "holding"

    @classmethod
    def _missing_(cls, value: object) -> Self:
        text = str(value).lower().replace(" ", "_").removesuffix("s")
        name = _ALIASES.get(text, text)
        for member in cls:
            if member.value == name:
                return member
        raise ConfigurationError(
            f"{value!r} is not a table: it is c, d, i or h, for coil, discrete (inputs), input and holding (registers)"
        )

    @property
    def bits(self) -> bool:
        """Its items are bits, not registers."""
        return self in (Table.COIL, Table.DISCRETE)

    @property
    def writable(self) -> bool:
        """Its items can be written."""
        return self in (Table.COIL, Table.HOLDING)

    @property
    def digit(self) -> int:
        """What its reference numbers start with."""
        return {Table.COIL: 0, Table.DISCRETE: 1, Table.INPUT: 3, Table.HOLDING: 4}[self]

    @property
    def item(self) -> str:
        """One of its items, for people: ``holding register``."""
        return {
            Table.COIL: "coil",
            Table.DISCRETE: "discrete input",
            Table.INPUT: "input register",
            Table.HOLDING: "holding register",
        }[self]


@dataclass(frozen=True, slots=True)
class Point(Format):
    """A value in one of a device's tables. Immutable; validated and compiled when built.

    ``str(point)`` gives the notation of the command line, which ``parse_point`` reads: place, type
    and order, not what else is known of it.

    Args:
        table: where.
        address: 0-based PDU address of its first item, 0..65535.
        unit: the unit it belongs to, 0..255; None: whichever is asked.
        name: for people.
        unit_of_measure: for people: ``kWh``.

    The settings of ``Format`` are given by keyword. In coils and discrete inputs a point is ``bool``
    with a count and nothing else; elsewhere it is a ``u16`` unless told otherwise.

    Raises:
        UsageError: the point leaves its table, or a setting cannot work.
    """

    table: Table
    address: int
    unit: int | None = None
    name: str = ""
    unit_of_measure: str = ""
    type: DataType = field(default=cast("DataType", None), kw_only=True)  # the table decides

    def __post_init__(self) -> None:
        object.__setattr__(self, "table", Table(self.table))
        if not self.type:
            object.__setattr__(self, "type", DataType.BOOL if self.table.bits else DataType.U16)
        Format.__post_init__(self)
        if self.table.bits and (self.type is not DataType.BOOL or self.bits or self.sentinels or self.order != ABCD):
            raise ConfigurationError(
                f"a {self.table.item} is a bool, without bits, order and sentinels; not {self.type}"
            )
        if self.unit is not None:
            check_unit(self.unit)
        AddressRange(self.address, self.items)
        object.__setattr__(self, "_codec", codec_for(self))

    @property
    def items(self) -> int:
        """How many items of its table it takes."""
        return self.count if self.table.bits else self.registers

    @property
    def range(self) -> AddressRange:
        """The items of its table that it takes."""
        return AddressRange(self.address, self.items)

    @property
    def reference(self) -> str:
        """The six-digit reference number of its first item: ``400001`` for holding register 0."""
        return reference(self.table, self.address)

    @property
    def mask(self) -> bytes | None:
        """The bits of its registers that belong to the value; None: all of them."""
        return None if self.table.bits else self._compiled.mask

    @property
    def _compiled(self) -> Codec:
        try:
            return self._codec
        except AttributeError:  # it comes out of a pickle or a copy
            object.__setattr__(self, "_codec", codec_for(self))
            return self._codec

    def decode(self, data: bytes) -> Value:
        """The value in the items of this point; a list where the count says so.

        Args:
            data: register bytes as they travel, two for each; of coils and discrete inputs one byte
                for each, 0 or 1.

        Raises:
            UsageError: there are more or fewer bytes than the point has.
            PeerError: they cannot be a value of this type: a bcd digit above 9.
        """
        if not self.table.bits:
            return self._compiled.decode(data)
        if len(data) != self.count:
            raise UsageError(f"{self} has {self.count} bits, not {len(data)}")
        return bool(data[0]) if self.count == 1 else list(map(bool, data))

    def encode(self, value: Value | Sequence[Scalar]) -> bytes:
        """The opposite of ``decode``.

        Raises:
            InvalidRequestError: a value that does not fit; the message names the limits.
        """
        if not self.table.bits:
            return self._compiled.encode(value)
        bits = [value] if self.count == 1 else value
        if not isinstance(bits, Sequence) or len(bits) != self.count or any(bit not in (0, 1) for bit in bits):
            what = "a bit" if self.count == 1 else f"a list of {self.count} bits"
            raise InvalidRequestError(f"{value!r} is not {what}: True or False, 1 or 0")
        return bytes(map(bool, bits))

    def __str__(self) -> str:
        usual = self.type is (DataType.BOOL if self.table.bits else DataType.U16) and not self.bits
        return "".join(
            (
                "" if self.unit is None else f"{self.unit}/",
                f"{self.table[0]}@{self.address}",
                "" if self.count == 1 else f":{self.count}",
                "" if usual else f"/{self.type}",
                f".{self.bits}" if self.bits else "",
                "" if self.order == ABCD else f":{self.order}",
            )
        )


def reference(table: Table, address: int) -> str:
    """The six-digit reference number of an item, counted from 1: ``400001`` for holding register 0."""
    return f"{table.digit}{address + 1:05}"
