"""Registers to values and back (spec.md 3.1).

``codec_for`` compiles a ``Format``; there is a class for each family of types.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, isinf, nan
from struct import pack, unpack
from sys import float_info
from typing import Any, Final

from everbus.errors import ConfigurationError, InvalidRequestError, PeerError
from everbus.maps.datatypes import DataType, Format, Scalar, Value
from everbus.maps.packing import Codec

__all__ = ["codec_for"]

_CODES: Final = {
    DataType.BOOL: "H",
    DataType.I8: "xb",
    DataType.U8: "xB",
    DataType.I16: "h",
    DataType.U16: "H",
    DataType.I32: "i",
    DataType.U32: "I",
    DataType.I64: "q",
    DataType.U64: "Q",
    DataType.F16: "e",
    DataType.F32: "f",
    DataType.F64: "d",
}
_MOST: Final = {DataType.F16: 65504.0, DataType.F32: 3.4028234663852886e38, DataType.F64: float_info.max}


class _Bytes(Codec):
    """Bytes as they are."""

    __slots__ = ()

    def _value(self, raw: bytes) -> Scalar:
        return raw

    def _raw(self, value: Value | Sequence[Scalar]) -> bytes:
        if not isinstance(value, bytes) or len(value) != self.size_bytes:
            raise InvalidRequestError(
                f"{value!r} is not {self.size_bytes} bytes, as bytes of {self.format.count} registers are"
            )
        return value


class _Text(Codec):
    """Text that ends at the first NUL, or where only spaces follow."""

    __slots__ = ()

    def _value(self, raw: bytes) -> Scalar:
        text = raw.decode(self.format.encoding, errors="backslashreplace")
        return text.partition("\0")[0].rstrip(" ")

    def _raw(self, value: Value | Sequence[Scalar]) -> bytes:
        if not isinstance(value, str) or "\0" in value:
            raise InvalidRequestError(f"{value!r} is not text without a NUL")
        try:
            data = value.encode(self.format.encoding)
        except UnicodeEncodeError as error:
            raise InvalidRequestError(f"{value!r} has characters that {self.format.encoding} does not know") from error
        if len(data) > self.size_bytes:
            raise InvalidRequestError(
                f"{value!r} has {len(data)} bytes in {self.format.encoding}; a string of {self.format.count} "
                f"registers holds {self.size_bytes}"
            )
        return data  # the struct module fills up with NUL


class _Number(Codec):
    """What numbers share: scale, offset and sentinels.

    Subclasses say how a raw value, as the struct module has it, relates to a number.
    """

    __slots__ = ("_absent", "_divisor", "_none", "_range", "_scaled")

    def __init__(self, format: Format) -> None:
        super().__init__(format)
        self._scaled = (format.scale, format.offset) != (1, 0)
        self._divisor = _divisor(format.scale)
        self._range = self._bounds()
        absent = [self._sentinel(sentinel) for sentinel in format.sentinels]
        self._absent = frozenset(absent)
        self._none = absent[0] if absent and format.bits is None else None

    def _value(self, raw: Any) -> Scalar:
        return None if raw in self._absent else self._scale(self._number(raw))

    def _raw(self, value: Value | Sequence[Scalar]) -> Any:
        if value is None:
            if self._none is None:
                raise InvalidRequestError(f"None is no {self.format.type} here: there is no sentinel that says so")
            return self._none
        if not isinstance(value, int | float):
            raise InvalidRequestError(f"{value!r} is not a number, as {self._kind} is")
        try:
            number = self._unscale(value)
            if isinf(number) and not isinf(value):
                raise OverflowError(value)
            raw = self._fitted(number)
        except (OverflowError, ValueError) as error:
            raise InvalidRequestError(f"{value!r} does not fit {self._kind}: {self._limits}") from error
        if raw in self._absent and self.format.bits is None:
            raise InvalidRequestError(f"{value!r} would read as not available in {self._kind}: give None to say that")
        return raw

    def _scale(self, number: float) -> float:
        if not self._scaled:
            return number
        # A division by 10 gives the nearest float; a multiplication by 0.1 does not: 0.3, not 0.30000000000000004.
        scaled = number / self._divisor if self._divisor else number * self.format.scale
        return scaled + self.format.offset

    def _unscale(self, value: float) -> float:
        if not self._scaled:
            return value
        difference, scale = value - self.format.offset, self.format.scale
        if self._divisor:
            return difference * self._divisor
        return difference / scale if difference % scale else difference // scale

    @property
    def _kind(self) -> str:
        """The type and what changes it, for messages."""
        form = self.format
        bits = f".{form.bits}" if form.bits else ""
        return f"{form.type}{bits}" + (f" with scale {form.scale} and offset {form.offset}" if self._scaled else "")

    @property
    def _limits(self) -> str:
        """What values there are, for messages."""
        low, high = sorted(map(self._scale, self._range))
        what = "" if self._scaled or self.format.type.floating else "whole numbers of "
        return f"it holds {what}{low}..{high}"

    def _rounded(self, number: float) -> int:
        """The whole number within the bounds that a number is, or with a scale is nearest to."""
        whole = round(number)
        low, high = self._range
        if not low <= whole <= high or (whole != number and not self._scaled):
            raise ValueError(number)
        return whole

    def _bounds(self) -> tuple[float, float]:
        """The least and the largest number, unscaled."""
        raise NotImplementedError  # pragma: no cover

    def _sentinel(self, sentinel: int | float) -> Any:
        """A sentinel as a raw value."""
        raise NotImplementedError  # pragma: no cover

    def _number(self, raw: Any) -> float:
        """The number that a raw value is."""
        raise NotImplementedError  # pragma: no cover

    def _fitted(self, number: float) -> Any:
        """The raw value of a number; OverflowError or ValueError if there is none."""
        raise NotImplementedError  # pragma: no cover


class _Whole(_Number):
    """Whole numbers, single bits of them, and names for them."""

    __slots__ = ("_numbers",)

    def __init__(self, format: Format) -> None:
        super().__init__(format)
        self._plain = not (self._scaled or self._absent or format.bits or format.labels or format.type is DataType.BOOL)
        self._numbers = {name: number for number, name in format.labels.items()}

    @property
    def mask(self) -> bytes | None:
        if self.format.bits is not None:
            return self._pack([self.format.bits.mask] * self.format.count)
        if self.format.type.width == 8:
            return self._pack([-1 if self.format.type.signed else 0xFF] * self.format.count)
        return None

    def _code(self) -> str:
        return _CODES[self.format.type]

    def _value(self, raw: int) -> Scalar:
        if self._plain:
            return raw
        if raw in self._absent:
            return None
        bits = self.format.bits
        number = raw if bits is None else raw >> bits.first & bits.limit
        if self.format.type is DataType.BOOL:
            return number != 0
        return self.format.labels.get(number) or self._scale(number)

    def _raw(self, value: Value | Sequence[Scalar]) -> int:
        if isinstance(value, str) and self._numbers:
            if value not in self._numbers:
                raise InvalidRequestError(f"{value!r} is not one of {', '.join(self._numbers)}")
            value = self._numbers[value]
        raw: int = super()._raw(value)
        return raw

    def _bounds(self) -> tuple[int, int]:
        form = self.format
        if form.bits is not None:
            return 0, form.bits.limit
        if form.type is DataType.BOOL:
            return 0, 1
        most = 1 << form.type.width - form.type.signed
        return -most if form.type.signed else 0, most - 1

    def _sentinel(self, sentinel: int | float) -> int:
        width, signed = self.format.type.width, self.format.type.signed
        if not isinstance(sentinel, int) or not -(signed << width - 1) <= sentinel < 1 << width:
            raise ConfigurationError(f"sentinel {sentinel} is not a raw value of {self.format.type}, {width} bits")
        return sentinel - (1 << width) if signed and sentinel >> width - 1 > 0 else sentinel

    def _fitted(self, number: float) -> int:
        whole = self._rounded(number)
        return whole << self.format.bits.first if self.format.bits else whole


class _Float(_Number):
    """IEEE 754 numbers; what is not a number reads as None, and None is written so."""

    __slots__ = ()

    def _code(self) -> str:
        return _CODES[self.format.type]

    def _value(self, raw: float) -> Scalar:
        return None if raw != raw or raw in self._absent else self._scale(raw)  # noqa: PLR0124  only NaN is not itself

    def _raw(self, value: Value | Sequence[Scalar]) -> float:
        if value is None and self._none is None:
            return nan
        raw: float = super()._raw(value)
        return raw

    def _bounds(self) -> tuple[float, float]:
        return -_MOST[self.format.type], _MOST[self.format.type]

    def _sentinel(self, sentinel: int | float) -> float:
        code, size = self._code(), self.format.size_bytes
        try:
            raw: float
            if isinstance(sentinel, float):
                (raw,) = unpack(">" + code, pack(">" + code, sentinel))
            else:
                (raw,) = unpack(">" + code, sentinel.to_bytes(size, "big"))
        except OverflowError as error:
            raise ConfigurationError(
                f"sentinel {sentinel} is neither a bit pattern of {self.format.type} nor a float that fits it"
            ) from error
        if raw == 0 and sentinel:
            raise ConfigurationError(
                f"sentinel {sentinel} is plus or minus zero in {self.format.type}: nothing tells it from 0.0"
            )
        return raw

    def _fitted(self, number: float) -> float:
        code = ">" + self._code()
        (raw,) = unpack(code, pack(code, float(number)))
        return float(raw)


class _Bcd(_Number):
    """Binary coded decimals: four digits to a register, none of them above 9."""

    __slots__ = ()

    def _number(self, raw: bytes) -> int:
        digits = raw.hex()
        if not digits.isdecimal():
            raise PeerError(f"{digits.upper()} is not binary coded decimal: a digit is above 9")
        return int(digits)

    def _bounds(self) -> tuple[int, int]:
        return 0, 10 ** (2 * self.size_bytes) - 1

    def _sentinel(self, sentinel: int | float) -> bytes:
        if not isinstance(sentinel, int) or not 0 <= sentinel < 1 << 8 * self.size_bytes:
            raise ConfigurationError(f"sentinel {sentinel} is not a bit pattern of {self.size_bytes} bytes")
        return sentinel.to_bytes(self.size_bytes, "big")

    def _fitted(self, number: float) -> bytes:
        return bytes.fromhex(f"{self._rounded(number):0{2 * self.size_bytes}d}")


def _divisor(scale: float) -> int:
    """The whole number that dividing by is the same as multiplying by ``scale``; 0: there is none."""
    inverse = 1 / scale
    if abs(scale) < 1 and isfinite(inverse) and 1 / round(inverse) == scale:
        return round(inverse)
    return 0


_CODECS: Final[dict[DataType, type[Codec]]] = {
    DataType.STRING: _Text,
    DataType.BYTES: _Bytes,
    DataType.BCD: _Bcd,
    DataType.F16: _Float,
    DataType.F32: _Float,
    DataType.F64: _Float,
}


def codec_for(format: Format) -> Codec:
    """Compile a format.

    Raises:
        ConfigurationError: a sentinel that is no raw value of the type.
    """
    return _CODECS.get(format.type, _Whole)(format)
