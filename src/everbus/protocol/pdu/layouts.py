"""The few layouts that most PDUs share (spec.md 1.3); a family gives them names, limits and meaning."""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import ClassVar, Self

from everbus.protocol.pdu.base import CountedLength, LengthRule, Pdu, malformed

__all__ = ["AddressQuantity", "AddressValue", "CountedData", "WriteBlock"]

_TWO_WORDS = Struct(">BHH")
_WRITE_HEAD = Struct(">BHHB")


def _two_words(cls: type[Pdu], pdu: bytes) -> tuple[int, int]:
    if len(pdu) != _TWO_WORDS.size:
        raise malformed(cls.function_code, f"it has {_TWO_WORDS.size} bytes, this one {len(pdu)}")
    _, first, second = _TWO_WORDS.unpack(pdu)
    return first, second


@dataclass(slots=True)
class AddressQuantity(Pdu):
    """``FC A2 Q2``: requests to read a range, confirmations of a written one."""

    address: int
    quantity: int

    length: ClassVar[LengthRule | None] = CountedLength(5)

    @classmethod
    def parse(cls, pdu: bytes) -> Self:
        return cls(*_two_words(cls, pdu))

    def encode(self) -> bytes:
        return _TWO_WORDS.pack(self.function_code, self.address, self.quantity)

    def fields(self) -> dict[str, object]:
        return {"address": self.address, "quantity": self.quantity}


@dataclass(slots=True)
class AddressValue(Pdu):
    """``FC A2 V2``: a write of one item, and its echo."""

    address: int
    value: int

    length: ClassVar[LengthRule | None] = CountedLength(5)

    @classmethod
    def parse(cls, pdu: bytes) -> Self:
        return cls(*_two_words(cls, pdu))

    def encode(self) -> bytes:
        return _TWO_WORDS.pack(self.function_code, self.address, self.value)

    def fields(self) -> dict[str, object]:
        return {"address": self.address, "value": self.value}

    def echo_mismatch(self, echo: AddressValue) -> str | None:
        """Why an echo does not confirm this write; None: it does."""
        if (echo.address, echo.value) == (self.address, self.value):
            return None
        return f"the echo says {echo.value:04X} at {echo.address}, not {self.value:04X} at {self.address}"


@dataclass(slots=True)
class CountedData(Pdu):
    """``FC N1 data``: responses that carry bits, registers or an identification."""

    data: bytes

    length: ClassVar[LengthRule | None] = CountedLength(2, count_at=1)

    @classmethod
    def parse(cls, pdu: bytes) -> Self:
        if len(pdu) < 2 or len(pdu) != 2 + pdu[1]:
            raise malformed(cls.function_code, f"the byte count does not fit a PDU of {len(pdu)} bytes")
        return cls(pdu[2:])

    def encode(self) -> bytes:
        return bytes((self.function_code, len(self.data))) + self.data

    def fields(self) -> dict[str, object]:
        return {"byte_count": len(self.data), "data_hex": self.data.hex()}


@dataclass(slots=True)
class WriteBlock(Pdu):
    """``FC A2 Q2 N1 data``: requests to write a range."""

    address: int
    quantity: int
    data: bytes

    length: ClassVar[LengthRule | None] = CountedLength(6, count_at=5)

    @classmethod
    def parse(cls, pdu: bytes) -> Self:
        if len(pdu) < _WRITE_HEAD.size or len(pdu) != _WRITE_HEAD.size + pdu[5]:
            raise malformed(cls.function_code, f"the byte count does not fit a PDU of {len(pdu)} bytes")
        _, address, quantity, _ = _WRITE_HEAD.unpack_from(pdu)
        return cls(address, quantity, pdu[_WRITE_HEAD.size :])

    def encode(self) -> bytes:
        return _WRITE_HEAD.pack(self.function_code, self.address, self.quantity, len(self.data)) + self.data

    def fields(self) -> dict[str, object]:
        return {"address": self.address, "quantity": self.quantity, "byte_count": len(self.data)}

    def echo_mismatch(self, confirmation: AddressQuantity) -> str | None:
        """Why a confirmation does not confirm this write; None: it does."""
        if (confirmation.address, confirmation.quantity) == (self.address, self.quantity):
            return None
        return (
            f"it confirms {confirmation.quantity} items at {confirmation.address}, "
            f"not {self.quantity} at {self.address}"
        )
