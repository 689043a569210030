"""Holding and input registers: 03, 04, 06, 10, 16 and 17 (AP 6.3, 6.4, 6.6, 6.12, 6.16, 6.17)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct
from typing import ClassVar, Generic, Self, TypeVar

from everbus.errors import UsageError
from everbus.protocol.codes import (
    MAX_READ_REGISTERS,
    MAX_READ_WRITE_REGISTERS,
    MAX_WRITE_REGISTERS,
    FunctionCode,
)
from everbus.protocol.pdu.base import (
    CountedLength,
    LengthRule,
    Pdu,
    Request,
    Response,
    check_address_range,
    check_quantity,
    malformed,
)
from everbus.protocol.pdu.layouts import AddressQuantity, AddressValue, CountedData, WriteBlock
from everbus.protocol.values import pack_registers, unpack_registers

__all__ = [
    "MaskWriteRegisterRequest",
    "MaskWriteRegisterResponse",
    "ReadHoldingRegistersRequest",
    "ReadHoldingRegistersResponse",
    "ReadInputRegistersRequest",
    "ReadInputRegistersResponse",
    "ReadRegistersRequest",
    "ReadRegistersResponse",
    "ReadWriteMultipleRegistersRequest",
    "ReadWriteMultipleRegistersResponse",
    "WriteMultipleRegistersRequest",
    "WriteMultipleRegistersResponse",
    "WriteSingleRegisterRequest",
    "WriteSingleRegisterResponse",
]

_MASK = Struct(">BHHH")
_READ_WRITE_HEAD = Struct(">BHHHHB")


class ReadRegistersResponse(CountedData, Response):
    """Registers as wire bytes, high byte first."""

    __slots__ = ()

    @classmethod
    def of(cls, values: Sequence[int]) -> Self:
        """A response with these registers, 1..125 of 0..65535.

        Raises:
            UsageError: a value does not fit 16 bits.
        """
        return cls(pack_registers(values))

    @property
    def registers(self) -> list[int]:
        """The registers."""
        return unpack_registers(self.data)

    def check(self) -> None:
        if len(self.data) % 2:
            raise malformed(self.function_code, f"byte count {len(self.data)} is odd")
        check_quantity(self.function_code, len(self.data) // 2, MAX_READ_REGISTERS)

    def fields(self) -> dict[str, object]:
        if len(self.data) % 2:
            return super().fields()
        return {"byte_count": len(self.data), "registers": self.registers}


S = TypeVar("S", bound=ReadRegistersResponse)


class ReadRegistersRequest(AddressQuantity, Request[S], Generic[S]):
    """``quantity`` registers, 1..125, from ``address``, 0..65535."""

    __slots__ = ()

    def check(self) -> None:
        check_quantity(self.function_code, self.quantity, MAX_READ_REGISTERS)
        check_address_range(self.function_code, self.address, self.quantity)

    def respond(self, values: Sequence[int]) -> S:
        """The response with these registers, 0..65535 each.

        Raises:
            UsageError: more or fewer than were asked for, or one that does not fit 16 bits.
        """
        if len(values) != self.quantity:
            raise UsageError(f"{self.quantity} registers were asked for, {len(values)} given")
        response: S = self.response_type.of(values)
        return response

    def plain_bytes(self) -> int:
        return 2 + 2 * self.quantity

    def mismatch(self, response: S) -> str | None:
        return _count_mismatch(self.quantity, response)


def _count_mismatch(quantity: int, response: ReadRegistersResponse) -> str | None:
    if len(response.data) == 2 * quantity:
        return None
    return f"{quantity} registers need byte count {2 * quantity}, not {len(response.data)}"


class ReadHoldingRegistersResponse(ReadRegistersResponse):
    """Holding registers, 03."""

    __slots__ = ()
    function_code: ClassVar[int] = FunctionCode.READ_HOLDING_REGISTERS


class ReadHoldingRegistersRequest(ReadRegistersRequest[ReadHoldingRegistersResponse]):
    """Read holding registers, 03."""

    __slots__ = ()
    function_code: ClassVar[int] = FunctionCode.READ_HOLDING_REGISTERS
    response_type = ReadHoldingRegistersResponse


class ReadInputRegistersResponse(ReadRegistersResponse):
    """Input registers, 04."""

    __slots__ = ()
    function_code: ClassVar[int] = FunctionCode.READ_INPUT_REGISTERS


class ReadInputRegistersRequest(ReadRegistersRequest[ReadInputRegistersResponse]):
    """Read input registers, 04."""

    __slots__ = ()
    function_code: ClassVar[int] = FunctionCode.READ_INPUT_REGISTERS
    response_type = ReadInputRegistersResponse


class WriteSingleRegisterResponse(AddressValue, Response):
    """The echo of a write to one register."""

    __slots__ = ()
    function_code: ClassVar[int] = FunctionCode.WRITE_SINGLE_REGISTER


class WriteSingleRegisterRequest(AddressValue, Request[WriteSingleRegisterResponse]):
    """Write one holding register, 06."""

    __slots__ = ()
    function_code: ClassVar[int] = FunctionCode.WRITE_SINGLE_REGISTER
    response_type = WriteSingleRegisterResponse

    def respond(self) -> WriteSingleRegisterResponse:
        """The echo."""
        return WriteSingleRegisterResponse(self.address, self.value)

    def mismatch(self, response: WriteSingleRegisterResponse) -> str | None:
        return self.echo_mismatch(response)


class WriteMultipleRegistersResponse(AddressQuantity, Response):
    """How many registers were written, and where."""

    __slots__ = ()
    function_code: ClassVar[int] = FunctionCode.WRITE_MULTIPLE_REGISTERS

    def check(self) -> None:
        check_quantity(self.function_code, self.quantity, MAX_WRITE_REGISTERS)


class WriteMultipleRegistersRequest(WriteBlock, Request[WriteMultipleRegistersResponse]):
    """Write 1..123 holding registers, 10."""

    __slots__ = ()
    function_code: ClassVar[int] = FunctionCode.WRITE_MULTIPLE_REGISTERS
    response_type = WriteMultipleRegistersResponse

    @classmethod
    def of(cls, address: int, values: Sequence[int]) -> Self:
        """A request that writes these registers, 0..65535 each, from ``address`` on.

        Raises:
            UsageError: a value does not fit 16 bits.
        """
        return cls(address, len(values), pack_registers(values))

    @property
    def registers(self) -> list[int]:
        """The new values."""
        return unpack_registers(self.data)

    def check(self) -> None:
        check_quantity(self.function_code, self.quantity, MAX_WRITE_REGISTERS)
        if len(self.data) != 2 * self.quantity:
            raise malformed(self.function_code, f"byte count {len(self.data)} does not fit {self.quantity} registers")
        check_address_range(self.function_code, self.address, self.quantity)

    def fields(self) -> dict[str, object]:
        if len(self.data) % 2:
            return super().fields() | {"data_hex": self.data.hex()}
        return super().fields() | {"registers": self.registers}

    def respond(self) -> WriteMultipleRegistersResponse:
        """The confirmation."""
        return WriteMultipleRegistersResponse(self.address, self.quantity)

    def mismatch(self, response: WriteMultipleRegistersResponse) -> str | None:
        return self.echo_mismatch(response)


@dataclass(slots=True)
class _Mask(Pdu):
    address: int
    and_mask: int
    or_mask: int

    function_code: ClassVar[int] = FunctionCode.MASK_WRITE_REGISTER
    length: ClassVar[LengthRule | None] = CountedLength(7)

    @classmethod
    def parse(cls, pdu: bytes) -> Self:
        if len(pdu) != _MASK.size:
            raise malformed(cls.function_code, f"it has {_MASK.size} bytes, this one {len(pdu)}")
        _, address, and_mask, or_mask = _MASK.unpack(pdu)
        return cls(address, and_mask, or_mask)

    def encode(self) -> bytes:
        return _MASK.pack(self.function_code, self.address, self.and_mask, self.or_mask)

    def fields(self) -> dict[str, object]:
        return {"address": self.address, "and_mask": self.and_mask, "or_mask": self.or_mask}


class MaskWriteRegisterResponse(_Mask, Response):
    """The echo of a mask write."""

    __slots__ = ()


class MaskWriteRegisterRequest(_Mask, Request[MaskWriteRegisterResponse]):
    """Change bits of one holding register, 16."""

    __slots__ = ()
    response_type = MaskWriteRegisterResponse

    def apply(self, current: int) -> int:
        """The register's new value: (current AND and) OR (or AND NOT and)."""
        return (current & self.and_mask) | (self.or_mask & ~self.and_mask & 0xFFFF)

    def respond(self) -> MaskWriteRegisterResponse:
        """The echo."""
        return MaskWriteRegisterResponse(self.address, self.and_mask, self.or_mask)

    def mismatch(self, response: MaskWriteRegisterResponse) -> str | None:
        if response.encode() != self.encode():
            return f"the echo says {response.fields()}, not {self.fields()}"
        return None


class ReadWriteMultipleRegistersResponse(ReadRegistersResponse):
    """The registers read after the write."""

    __slots__ = ()
    function_code: ClassVar[int] = FunctionCode.READ_WRITE_MULTIPLE_REGISTERS


@dataclass(slots=True)
class ReadWriteMultipleRegistersRequest(Request[ReadWriteMultipleRegistersResponse]):
    """Write 1..121 holding registers, then read 1..125, in one transaction, 17."""

    read_address: int
    read_quantity: int
    write_address: int
    write_quantity: int
    data: bytes

    function_code: ClassVar[int] = FunctionCode.READ_WRITE_MULTIPLE_REGISTERS
    length: ClassVar[LengthRule | None] = CountedLength(10, count_at=9)
    response_type: ClassVar[type[Response]] = ReadWriteMultipleRegistersResponse

    @classmethod
    def of(cls, read_address: int, read_quantity: int, write_address: int, values: Sequence[int]) -> Self:
        """A request that writes these registers, 0..65535 each, and then reads.

        Raises:
            UsageError: a value does not fit 16 bits.
        """
        return cls(read_address, read_quantity, write_address, len(values), pack_registers(values))

    @property
    def registers(self) -> list[int]:
        """The new values."""
        return unpack_registers(self.data)

    @classmethod
    def parse(cls, pdu: bytes) -> Self:
        head = _READ_WRITE_HEAD.size
        if len(pdu) < head or len(pdu) != head + pdu[9]:
            raise malformed(cls.function_code, f"the byte count does not fit a PDU of {len(pdu)} bytes")
        _, read_address, read_quantity, write_address, write_quantity, _ = _READ_WRITE_HEAD.unpack_from(pdu)
        return cls(read_address, read_quantity, write_address, write_quantity, pdu[head:])

    def check(self) -> None:
        code = self.function_code
        check_quantity(code, self.read_quantity, MAX_READ_REGISTERS)
        check_quantity(code, self.write_quantity, MAX_READ_WRITE_REGISTERS)
        if len(self.data) != 2 * self.write_quantity:
            raise malformed(code, f"byte count {len(self.data)} does not fit {self.write_quantity} registers")
        check_address_range(code, self.read_address, self.read_quantity)
        check_address_range(code, self.write_address, self.write_quantity)

    def encode(self) -> bytes:
        head = _READ_WRITE_HEAD.pack(
            self.function_code,
            self.read_address,
            self.read_quantity,
            self.write_address,
            self.write_quantity,
            len(self.data),
        )
        return head + self.data

    def fields(self) -> dict[str, object]:
        fields: dict[str, object] = {
            "read_address": self.read_address,
            "read_quantity": self.read_quantity,
            "write_address": self.write_address,
            "write_quantity": self.write_quantity,
            "byte_count": len(self.data),
        }
        if len(self.data) % 2:
            return fields | {"data_hex": self.data.hex()}
        return fields | {"registers": self.registers}

    def respond(self, values: Sequence[int]) -> ReadWriteMultipleRegistersResponse:
        """The response with the registers read, 0..65535 each.

        Raises:
            UsageError: more or fewer than were asked for, or one that does not fit 16 bits.
        """
        if len(values) != self.read_quantity:
            raise UsageError(f"{self.read_quantity} registers were asked for, {len(values)} given")
        return ReadWriteMultipleRegistersResponse.of(values)

    def mismatch(self, response: ReadWriteMultipleRegistersResponse) -> str | None:
        return _count_mismatch(self.read_quantity, response)
