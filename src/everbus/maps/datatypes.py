"""The types that values in registers have, and what a value looks like in full."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import isfinite
from typing import TYPE_CHECKING, Final, Self

from everbus.errors import ConfigurationError
from everbus.maps.order import ABCD, Order
from everbus.protocol.codes import ITEMS_PER_TABLE

if TYPE_CHECKING:
    from everbus.maps.packing import Codec

__all__ = ["BitRange", "DataType", "Format", "Scalar", "Value"]

Scalar = bool | int | float | str | bytes | None
"""One value; None: the device says that it has none."""

Value = Scalar | list[Scalar]
"""What a point reads as: one value, or a list of them where its count says so."""

_LONG_NAMES: Final = {"int": "i", "uint": "u", "float": "f"}


class DataType(StrEnum):
    """A type, by its short name; ``DataType("float32")`` finds it by its long one."""

    BOOL = "bool"
    I8 = "i8"
    U8 = "u8"
    I16 = "i16"
    U16 = "u16"
    I32 = "i32"
    U32 = "u32"
    I64 = "i64"
    U64 = "u64"
    F16 = "f16"
    F32 = "f32"
    F64 = "f64"
    STRING = "string"
    BYTES = "bytes"
    BCD = "bcd"

    @classmethod
    def _missing_(cls, value: object) -> Self:
        text = str(value).lower()
        stem = text.rstrip("0123456789")
        short = _LONG_NAMES.get(stem, stem) + text[len(stem) :]
        for member in cls:
            if member.value == short:
                return member
        raise ConfigurationError(
            f"{value!r} is not a type: it is one of {', '.join(cls)}, or a long name such as int16 or float32"
        )

    @property
    def width(self) -> int:
        """Bits of a number; 16 for bool in a register; 0 where the count of registers decides."""
        return _WIDTHS[self]

    @property
    def signed(self) -> bool:
        """It is a whole number that may be negative."""
        return self.width > 0 and self[0] == "i"

    @property
    def whole(self) -> bool:
        """It is a whole number in binary."""
        return self.width > 0 and self[0] in "iu"

    @property
    def floating(self) -> bool:
        """It is an IEEE 754 number."""
        return self.width > 0 and self[0] == "f"

    @property
    def spans(self) -> bool:
        """One value fills as many registers as the count says: string, bytes and bcd."""
        return self.width == 0


_WIDTHS: Final = {kind: int(kind[1:]) if kind[1:].isdigit() else 0 for kind in DataType} | {DataType.BOOL: 16}


@dataclass(frozen=True, slots=True)
class BitRange:
    """Neighbouring bits of a value, 0 the least significant.

    Args:
        first: the lowest of them.
        last: the highest; the same for a single bit.

    Raises:
        ConfigurationError: they are not within 0..63, or the wrong way round.
    """

    first: int
    last: int

    def __post_init__(self) -> None:
        if not 0 <= self.first <= self.last < 64:
            raise ConfigurationError(f"bits {self.first}-{self.last} are not two numbers of 0..63, the lower one first")

    @property
    def limit(self) -> int:
        """The largest number that they hold."""
        return (1 << self.last - self.first + 1) - 1

    @property
    def mask(self) -> int:
        """The bits themselves."""
        return self.limit << self.first

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


class _Compiled:
    """Holds the compiled form; no field of it, so that copies and pickles go without."""

    __slots__ = ("_codec",)

    _codec: Codec


@dataclass(frozen=True, slots=True, kw_only=True)
class Format(_Compiled):
    """What the registers of a value mean. Immutable; validated when built, trusted afterwards.

    A number reads as ``raw * scale + offset``.

    Args:
        type: of one value. ``i8`` and ``u8`` are the low byte of a register, the high one with order
            ``BA``. ``bool`` is a register that is not 0, or one bit of it with ``bits``.
        count: how many values, 1..65536; for string, bytes and bcd, how many registers one value
            has (two characters, two bytes, four digits each).
        order: of registers and bytes. Text and bytes have no word order.
        bits: the value is only these bits of a ``bool``, ``u16``, ``u32`` or ``u64``.
        scale: not 0.
        offset: in the unit of the scaled value.
        sentinels: raw values that mean "not available", read as None: bit patterns (0x8000 also for
            i16, 0x7FC00000 for f32), negative numbers for signed types, floats for floating ones.
            A float that is not a number always reads as None.
        labels: names of whole numbers; a number without one reads as itself.
        encoding: of strings. Bytes that mean nothing in it read as escapes, in hexadecimal.

    Raises:
        ConfigurationError: a setting that cannot work, or does not fit the type.
    """

    type: DataType = DataType.U16
    count: int = 1
    order: Order = ABCD
    bits: BitRange | None = None
    scale: float = 1
    offset: float = 0
    sentinels: tuple[int | float, ...] = ()
    labels: Mapping[int, str] = field(default_factory=dict, hash=False)
    encoding: str = "utf-8"

    def __post_init__(self) -> None:
        object.__setattr__(self, "type", DataType(self.type))
        object.__setattr__(self, "labels", dict(self.labels))
        if not 1 <= self.count <= ITEMS_PER_TABLE:
            raise ConfigurationError(f"count {self.count} is outside 1..{ITEMS_PER_TABLE}")
        self._check_order()
        self._check_bits()
        self._check_scale()
        self._check_names()

    @property
    def size_bytes(self) -> int:
        """Bytes of one value in its registers."""
        return 2 * self.count if self.type.spans else max(2, self.type.width // 8)

    @property
    def values(self) -> int:
        """How many values it reads as."""
        return 1 if self.type.spans else self.count

    @property
    def registers(self) -> int:
        """How many registers it takes."""
        return self.size_bytes * self.values // 2

    def _check_order(self) -> None:
        if self.type not in (DataType.STRING, DataType.BYTES):
            self.order.permutation(self.size_bytes)
        elif self.order.word_order != "big" or self.order.letters:
            raise ConfigurationError(
                f"order {self.order}: a {self.type} has no word order; use AB, or BA to swap bytes"
            )

    def _check_bits(self) -> None:
        if self.bits is None:
            return
        if self.type not in (DataType.BOOL, DataType.U16, DataType.U32, DataType.U64):
            raise ConfigurationError(f"bits {self.bits} of {self.type}: bits are taken from bool, u16, u32 or u64")
        if self.bits.last >= self.type.width:
            raise ConfigurationError(f"bits {self.bits} of {self.type}: it has bits 0 to {self.type.width - 1}")
        if self.type is DataType.BOOL and self.bits.limit > 1:
            raise ConfigurationError(f"bits {self.bits} of bool: it is one bit; several are a number, as in u16")

    def _check_scale(self) -> None:
        if (self.scale, self.offset) == (1, 0):
            return
        if not (self.type.whole or self.type.floating or self.type is DataType.BCD):
            raise ConfigurationError(f"a {self.type} has no scale and no offset")
        if not (isfinite(self.scale) and self.scale and isfinite(self.offset)):
            raise ConfigurationError(f"scale {self.scale} and offset {self.offset} are not numbers, or the scale is 0")

    def _check_names(self) -> None:
        if self.labels and not (self.type.whole and (self.scale, self.offset) == (1, 0)):
            raise ConfigurationError(f"labels name whole numbers without a scale, not a {self.type} with one")
        if self.sentinels and self.type in (DataType.STRING, DataType.BYTES):
            raise ConfigurationError(f"a {self.type} has no sentinels")
        try:
            "".encode(self.encoding)
        except (LookupError, ValueError) as error:
            raise ConfigurationError(f"encoding {self.encoding!r} is not known, as utf-8 and latin-1 are") from error
