"""What all types share on the way between registers and values: order, count and size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from struct import Struct
from typing import Any

from everbus.errors import InvalidRequestError, UsageError
from everbus.maps.datatypes import Format, Scalar, Value

__all__ = ["Codec"]


class Codec:
    """Turns register bytes into values of one format, and back: its compiled form, made by ``codec_for``.

    Data are register bytes as they travel, two for each register.

    Args:
        format: what the registers mean.
    """

    __slots__ = ("_arrange", "_plain", "_restore", "_single", "_struct", "format", "size_bytes")

    def __init__(self, format: Format) -> None:
        self.format: Format = format
        self.size_bytes: int = format.registers * 2
        """Bytes of all its registers."""
        self._single = format.values == 1
        self._plain = False
        self._restore: Callable[[bytes], tuple[int, ...]] | None = None
        self._arrange: Callable[[bytes], tuple[int, ...]] | None = None
        self._struct = self._compile()

    def decode(self, data: bytes) -> Value:
        """The value in these register bytes; a list where the format's count is above 1.

        Raises:
            UsageError: there are more or fewer bytes than the format has.
            PeerError: they cannot be a value of this type: a bcd digit above 9.
        """
        if len(data) != self.size_bytes:
            raise UsageError(f"{self.format.type} takes {self.size_bytes} bytes of registers, not {len(data)}")
        if self._restore is not None:
            data = bytes(self._restore(data))
        raws = self._struct.unpack(data)
        if self._single:
            return self._value(raws[0])
        return list(raws) if self._plain else list(map(self._value, raws))

    def encode(self, value: Value | Sequence[Scalar]) -> bytes:
        """The register bytes of a value, or of a list of as many values as the format says.

        Bits beside a bit field, or beside the byte of i8 and u8, are zero: see ``mask``.

        Raises:
            InvalidRequestError: a value that does not fit; the message names the limits.
        """
        if self._single:
            return self._pack([self._raw(value)])
        if not isinstance(value, Sequence) or isinstance(value, str | bytes) or len(value) != self.format.count:
            raise InvalidRequestError(
                f"{value!r} is not a list of {self.format.count} values of type {self.format.type}"
            )
        return self._pack(list(map(self._raw, value)))

    @property
    def mask(self) -> bytes | None:
        """The bits of the registers that belong to the value; None: all of them."""
        return None

    def _compile(self) -> Struct:
        """Set up the order of bytes; return the layout of what is then high byte first."""
        size = self.format.size_bytes
        order = self.format.order.permutation(size)
        code = self._code()
        if order == tuple(range(size - 1, -1, -1)) and len(code) == 1:
            return Struct("<" + code * self.format.values)
        if order != tuple(range(size)):
            wire = [start + place for start in range(0, self.size_bytes, size) for place in order]
            self._arrange = itemgetter(*wire)
            self._restore = itemgetter(*sorted(range(len(wire)), key=wire.__getitem__))
        return Struct(">" + code * self.format.values)

    def _pack(self, raws: Sequence[Any]) -> bytes:
        data = self._struct.pack(*raws)
        return data if self._arrange is None else bytes(self._arrange(data))

    def _code(self) -> str:
        """The layout of one value, as the struct module has it."""
        return f"{self.size_bytes}s"

    def _value(self, raw: Any) -> Scalar:
        """What a value of the struct module means."""
        raise NotImplementedError  # pragma: no cover

    def _raw(self, value: Value | Sequence[Scalar]) -> Any:
        """The opposite: what the struct module packs."""
        raise NotImplementedError  # pragma: no cover
