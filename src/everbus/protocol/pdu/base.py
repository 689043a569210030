"""What every PDU can do: be parsed, checked, encoded and described.

Three steps are kept apart on purpose:

* ``parse`` reads the structure alone: a PDU that is too short, too long or whose byte count lies
  has no structure and raises. What it returns may still be illegal, and re-encodes byte for byte.
* ``check`` demands what the specification allows: quantities, values, ranges.
* ``FunctionTable.decode_request`` and ``decode_response`` do both, once; behind them nothing is
  checked again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final, Generic, Protocol, Self, TypeVar

from everbus.errors import PduError
from everbus.protocol.codes import (
    EXCEPTION_BIT,
    ITEMS_PER_TABLE,
    MEI_CANOPEN,
    ExceptionCode,
    FunctionCode,
    function_name,
)

__all__ = [
    "NEED_MORE",
    "UNPREDICTABLE",
    "CountedLength",
    "ExceptionResponse",
    "LengthRule",
    "Pdu",
    "Request",
    "Response",
    "check_address_range",
    "check_quantity",
    "malformed",
]

NEED_MORE: Final = 0
"""A length rule's answer: the length is not known before more bytes are there."""

UNPREDICTABLE: Final = -1
"""A length rule's answer: only the frame around the PDU tells where it ends."""


class LengthRule(Protocol):
    """Tells the length of a PDU from its front (spec.md 1.11)."""

    def predict(self, data: bytes | bytearray | memoryview, start: int, end: int) -> int:
        """Length in bytes of the PDU at ``data[start:end]``, or NEED_MORE, or UNPREDICTABLE."""
        ...


@dataclass(frozen=True, slots=True)
class CountedLength:
    """A fixed part, and perhaps a byte count that says how much follows.

    Args:
        base: bytes of the PDU without the counted part.
        count_at: where the byte count stands in the PDU; 0: there is none.
        count_bytes: its width, 1 or 2.
    """

    base: int
    count_at: int = 0
    count_bytes: int = 1

    def predict(self, data: bytes | bytearray | memoryview, start: int, end: int) -> int:
        if not self.count_at:
            return self.base
        at = start + self.count_at
        if at + self.count_bytes > end:
            return NEED_MORE
        if self.count_bytes == 1:
            return self.base + data[at]
        return self.base + (data[at] << 8 | data[at + 1])


class Pdu:
    """A protocol data unit: one function code and its data."""

    __slots__ = ()

    function_code: ClassVar[int]
    length: ClassVar[LengthRule | None] = None
    """How its length is predicted; None: not predictable, as for most custom codes."""

    @classmethod
    def parse(cls, pdu: bytes) -> Self:
        """Read the structure of a PDU, function code included.

        Raises:
            PduError: it has none.
        """
        raise NotImplementedError  # pragma: no cover

    def check(self) -> None:
        """Demand what the specification allows.

        Raises:
            PduError: it does not; ``exception_code`` is what a server answers.
        """

    def encode(self) -> bytes:
        """The PDU's bytes, function code included."""
        raise NotImplementedError  # pragma: no cover

    def fields(self) -> dict[str, object]:
        """Its fields by name, for people and for JSON: numbers, lists and hexadecimal text."""
        raise NotImplementedError  # pragma: no cover


class Response(Pdu):
    """A normal response."""

    __slots__ = ()


R = TypeVar("R", bound=Response)


class Request(Pdu, Generic[R]):
    """A request, and what its answer must look like.

    A custom function code is a subclass of this and one of ``Response``, given to
    ``FunctionTable.extended``.
    """

    __slots__ = ()

    response_type: ClassVar[type[Any]]
    """The class of its normal response."""

    def plain_bytes(self) -> int:
        """Size of the PDU that plainly answers this: function code, byte count, data; 0: it is not of that form."""
        return 0

    def plain_response(self, pdu: bytes) -> R | None:
        """The response in a PDU if it plainly answers this request; None: the long way decides."""
        size = self.plain_bytes()
        if not size or len(pdu) != size or pdu[1] != size - 2 or pdu[0] != self.function_code:
            return None
        response: R = self.response_type(pdu[2:])
        return response

    def mismatch(self, response: R) -> str | None:
        """Why a response of ``response_type`` cannot answer this request; None: it can."""
        return None


@dataclass(slots=True)
class ExceptionResponse:
    """The answer "no": a function code with its high bit set, and a code (AP 7).

    Args:
        function: the request's function code, without the 0x80 bit.
        exception_code: 0..255; vendor codes are kept as they are.
        data: only behind code FF of 2B/0D, the extended form (spec.md 1.8).
    """

    function: int
    exception_code: int
    data: bytes = b""

    @classmethod
    def parse(cls, pdu: bytes) -> Self:
        """Read an exception response.

        Raises:
            PduError: it does not have exactly two bytes, or the extended form's length lies.
        """
        function = pdu[0] & ~EXCEPTION_BIT
        extended = function == FunctionCode.ENCAPSULATED_INTERFACE and pdu[1:2] == bytes((ExceptionCode.EXTENDED,))
        if len(pdu) == 2 and not extended:
            return cls(function, pdu[1])
        if extended and len(pdu) > 4 and len(pdu) == 4 + (pdu[2] << 8 | pdu[3]):
            return cls(function, pdu[1], pdu[4:])
        raise malformed(
            function, f"an exception response has 2 bytes, or AB FF and a true length; not these {len(pdu)}"
        )

    def encode(self) -> bytes:
        """The response's bytes."""
        head = bytes((self.function | EXCEPTION_BIT, self.exception_code))
        return head + len(self.data).to_bytes(2, "big") + self.data if self.data else head

    def fields(self) -> dict[str, object]:
        """Its fields by name."""
        fields: dict[str, object] = {"function": self.function, "exception_code": self.exception_code}
        if self.data:
            fields["ext_length"] = len(self.data)
            if self.data[0] == MEI_CANOPEN and len(self.data) == 6:
                fields["mei_type"] = MEI_CANOPEN
                fields["canopen_exception"] = self.data[1]
                fields["sdo_abort_code"] = self.data[2:].hex()
            else:
                fields["data_hex"] = self.data.hex()
        return fields


def malformed(function_code: int, problem: str) -> PduError:
    """The error for a PDU without its structure: exception 03 (SL page 36, "length incorrect")."""
    return PduError(ExceptionCode.ILLEGAL_DATA_VALUE, f"{function_name(function_code)}: {problem}")


def check_quantity(function_code: int, quantity: int, most: int) -> None:
    """Demand a quantity of 1 to ``most``, or raise exception 03."""
    if not 1 <= quantity <= most:
        raise malformed(function_code, f"quantity {quantity} is outside 1..{most}")


def check_address_range(function_code: int, address: int, quantity: int) -> None:
    """Demand that a range ends inside its table, or raise exception 02 (no wrap, spec.md 1.4)."""
    if address + quantity > ITEMS_PER_TABLE:
        raise PduError(
            ExceptionCode.ILLEGAL_DATA_ADDRESS,
            f"{function_name(function_code)}: {quantity} items from address {address} pass 65535",
        )
