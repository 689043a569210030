"""Coils and discrete inputs: 01, 02, 05 and 0F (AP 6.1, 6.2, 6.5, 6.11)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Generic, Self, TypeVar

from everbus.errors import UsageError
from everbus.protocol.codes import COIL_OFF, COIL_ON, MAX_READ_BITS, MAX_WRITE_BITS, FunctionCode
from everbus.protocol.pdu.base import Request, Response, check_address_range, check_quantity, malformed
from everbus.protocol.pdu.layouts import AddressQuantity, AddressValue, CountedData, WriteBlock
from everbus.protocol.values import pack_bits, unpack_bits

__all__ = [
    "ReadBitsRequest",
    "ReadBitsResponse",
    "ReadCoilsRequest",
    "ReadCoilsResponse",
    "ReadDiscreteInputsRequest",
    "ReadDiscreteInputsResponse",
    "WriteMultipleCoilsRequest",
    "WriteMultipleCoilsResponse",
    "WriteSingleCoilRequest",
    "WriteSingleCoilResponse",
]


class ReadBitsResponse(CountedData, Response):
    """Bits as wire bytes: the first item is bit 0 of the first byte."""

    __slots__ = ()

    @classmethod
    def of(cls, bits: Iterable[bool | int]) -> Self:
        """A response with these bits, 1..2000 of them."""
        return cls(pack_bits(bits))

    @property
    def bits(self) -> list[bool]:
        """All bits of all bytes; the request knows how many of them count."""
        return unpack_bits(self.data, 8 * len(self.data))

    def check(self) -> None:
        check_quantity(self.function_code, 8 * len(self.data), MAX_READ_BITS)

    def fields(self) -> dict[str, object]:
        return super().fields() | {"bits": [int(bit) for bit in self.bits]}


B = TypeVar("B", bound=ReadBitsResponse)


class ReadBitsRequest(AddressQuantity, Request[B], Generic[B]):
    """``quantity`` items, 1..2000, from ``address``, 0..65535."""

    __slots__ = ()

    def check(self) -> None:
        check_quantity(self.function_code, self.quantity, MAX_READ_BITS)
        check_address_range(self.function_code, self.address, self.quantity)

    def respond(self, bits: Iterable[bool | int]) -> B:
        """The response with these bits.

        Raises:
            UsageError: there are more or fewer of them than were asked for.
        """
        values = list(bits)
        if len(values) != self.quantity:
            raise UsageError(f"{self.quantity} bits were asked for, {len(values)} given")
        response: B = self.response_type.of(values)
        return response

    def plain_bytes(self) -> int:
        return 2 + (self.quantity + 7) // 8

    def mismatch(self, response: B) -> str | None:
        expected = (self.quantity + 7) // 8
        if len(response.data) != expected:
            return f"{self.quantity} bits need byte count {expected}, not {len(response.data)}"
        return None


class ReadCoilsResponse(ReadBitsResponse):
    """Coils, 01."""

    __slots__ = ()
    function_code: ClassVar[int] = FunctionCode.READ_COILS


class ReadCoilsRequest(ReadBitsRequest[ReadCoilsResponse]):
    """Read coils, 01."""

    __slots__ = ()
    function_code: ClassVar[int] = FunctionCode.READ_COILS
    response_type = ReadCoilsResponse


class ReadDiscreteInputsResponse(ReadBitsResponse):
    """Discrete inputs, 02."""

    __slots__ = ()
    function_code: ClassVar[int] = FunctionCode.READ_DISCRETE_INPUTS


class ReadDiscreteInputsRequest(ReadBitsRequest[ReadDiscreteInputsResponse]):
    """Read discrete inputs, 02."""

    __slots__ = ()
    function_code: ClassVar[int] = FunctionCode.READ_DISCRETE_INPUTS
    response_type = ReadDiscreteInputsResponse


class _SingleCoil(AddressValue):
    __slots__ = ()
    function_code: ClassVar[int] = FunctionCode.WRITE_SINGLE_COIL

    def check(self) -> None:
        if self.value not in (COIL_ON, COIL_OFF):
            raise malformed(self.function_code, f"value {self.value:04X} is neither FF00 (on) nor 0000 (off)")


class WriteSingleCoilResponse(_SingleCoil, Response):
    """The echo of a write to one coil."""

    __slots__ = ()


class WriteSingleCoilRequest(_SingleCoil, Request[WriteSingleCoilResponse]):
    """Write one coil, 05: ``value`` is FF00 for on and 0000 for off, nothing else."""

    __slots__ = ()
    response_type = WriteSingleCoilResponse

    @classmethod
    def of(cls, address: int, on: bool) -> Self:
        """A request that switches one coil."""
        return cls(address, COIL_ON if on else COIL_OFF)

    @property
    def on(self) -> bool:
        """The coil's new state."""
        return self.value == COIL_ON

    def respond(self) -> WriteSingleCoilResponse:
        """The echo."""
        return WriteSingleCoilResponse(self.address, self.value)

    def mismatch(self, response: WriteSingleCoilResponse) -> str | None:
        return self.echo_mismatch(response)


class WriteMultipleCoilsResponse(AddressQuantity, Response):
    """How many coils were written, and where."""

    __slots__ = ()
    function_code: ClassVar[int] = FunctionCode.WRITE_MULTIPLE_COILS

    def check(self) -> None:
        check_quantity(self.function_code, self.quantity, MAX_WRITE_BITS)


class WriteMultipleCoilsRequest(WriteBlock, Request[WriteMultipleCoilsResponse]):
    """Write 1..1968 coils, 0F; unused high bits of the last byte of ``data`` are ignored."""

    __slots__ = ()
    function_code: ClassVar[int] = FunctionCode.WRITE_MULTIPLE_COILS
    response_type = WriteMultipleCoilsResponse

    @classmethod
    def of(cls, address: int, bits: Iterable[bool | int]) -> Self:
        """A request that writes these bits from ``address`` on."""
        values = list(bits)
        return cls(address, len(values), pack_bits(values))

    @property
    def bits(self) -> list[bool]:
        """The coils' new states."""
        return unpack_bits(self.data, self.quantity)

    def check(self) -> None:
        check_quantity(self.function_code, self.quantity, MAX_WRITE_BITS)
        if len(self.data) != (self.quantity + 7) // 8:
            raise malformed(self.function_code, f"byte count {len(self.data)} does not fit {self.quantity} coils")
        check_address_range(self.function_code, self.address, self.quantity)

    def fields(self) -> dict[str, object]:
        fields = super().fields() | {"data_hex": self.data.hex()}
        if len(self.data) == (self.quantity + 7) // 8:
            fields["bits"] = [int(bit) for bit in self.bits]
        return fields

    def respond(self) -> WriteMultipleCoilsResponse:
        """The confirmation."""
        return WriteMultipleCoilsResponse(self.address, self.quantity)

    def mismatch(self, response: WriteMultipleCoilsResponse) -> str | None:
        return self.echo_mismatch(response)
