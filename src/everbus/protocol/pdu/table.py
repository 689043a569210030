"""Function code to PDU, both directions, and the lengths that serial framing needs.

A table belongs to the server or client it is given to. Custom function codes make a new table,
``PUBLIC.extended(MyRequest)``; nothing is registered globally.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from everbus.errors import PduError, UsageError
from everbus.protocol.codes import EXCEPTION_BIT, ExceptionCode, FunctionCode
from everbus.protocol.pdu import bits, diagnostics, encapsulated, files, registers
from everbus.protocol.pdu.base import (
    NEED_MORE,
    UNPREDICTABLE,
    ExceptionResponse,
    LengthRule,
    Request,
    Response,
)

__all__ = ["PUBLIC", "AnyRequest", "FunctionTable"]

AnyRequest = Request[Any]


@dataclass(frozen=True, slots=True)
class _Entry:
    """One function code: how its PDUs are read, and how long they are."""

    parse_request: Callable[[bytes], AnyRequest]
    parse_response: Callable[[bytes], Response]
    request_length: LengthRule | None
    response_length: LengthRule | None


class FunctionTable:
    """The function codes that a server or a client knows."""

    __slots__ = ("_entries",)

    def __init__(self, entries: dict[int, _Entry]) -> None:
        self._entries = entries

    @classmethod
    def of(cls, *requests: type[AnyRequest]) -> FunctionTable:
        """A table of these request classes alone."""
        return FunctionTable({}).extended(*requests)

    def extended(self, *requests: type[AnyRequest]) -> FunctionTable:
        """A new table that also knows these request classes, each with its ``response_type``.

        An entry for a code that this table has already replaces it in the new one.

        Raises:
            UsageError: a function code is outside 1..127, or differs from its response's.
        """
        entries = dict(self._entries)
        for request in requests:
            code = request.function_code
            response = request.response_type
            if not 1 <= code < EXCEPTION_BIT or response.function_code != code:
                raise UsageError(f"{request.__name__}: a request and its response share one function code of 1..127")
            entries[int(code)] = _Entry(request.parse, response.parse, request.length, response.length)
        return FunctionTable(entries)

    def __contains__(self, function_code: object) -> bool:
        return function_code in self._entries

    def agrees(self, other: FunctionTable, function_codes: Iterable[int]) -> bool:
        """Whether both tables read these function codes alike."""
        return all(self._entries.get(code) == other._entries.get(code) for code in function_codes)

    def _entry(self, pdu: bytes) -> _Entry:
        entry = self._entries.get(pdu[0]) if pdu else None
        if entry is None:
            raise PduError(
                ExceptionCode.ILLEGAL_FUNCTION, f"function code {pdu[:1].hex().upper() or 'none'} is not known"
            )
        return entry

    def parse_request(self, pdu: bytes) -> AnyRequest:
        """Read the structure of a request, legal or not.

        Raises:
            PduError: its function code is not known (01), or it has no structure (03).
        """
        return self._entry(pdu).parse_request(pdu)

    def decode_request(self, pdu: bytes) -> AnyRequest:
        """Read a request and demand what the specification allows, in the order of spec.md 1.4.

        Args:
            pdu: the function code and its data, 1..253 bytes.

        Raises:
            PduError: it is not legal; ``exception_code`` is what a server answers.
        """
        request = self.parse_request(pdu)
        request.check()
        return request

    def parse_response(self, pdu: bytes) -> Response | ExceptionResponse:
        """Read the structure of a response, an exception included.

        Raises:
            PduError: its function code is not known, or it has no structure.
        """
        if pdu and pdu[0] & EXCEPTION_BIT:
            return ExceptionResponse.parse(pdu)
        return self._entry(pdu).parse_response(pdu)

    def decode_response(self, pdu: bytes) -> Response | ExceptionResponse:
        """Read a response, an exception included, and demand what the specification allows.

        Raises:
            PduError: it is not legal.
        """
        response = self.parse_response(pdu)
        if isinstance(response, Response):
            response.check()
        return response

    def predict_request(self, data: bytes | bytearray | memoryview, start: int, end: int) -> int:
        """Length in bytes of the request PDU at ``data[start:end]``.

        Returns NEED_MORE while its front is too short, UNPREDICTABLE where only the frame tells.
        """
        if start >= end:
            return NEED_MORE
        entry = self._entries.get(data[start])
        if entry is None or entry.request_length is None:
            return UNPREDICTABLE
        return entry.request_length.predict(data, start, end)

    def predict_response(self, data: bytes | bytearray | memoryview, start: int, end: int) -> int:
        """Length in bytes of the response PDU at ``data[start:end]``, as ``predict_request`` does."""
        if start >= end:
            return NEED_MORE
        code = data[start]
        if code & EXCEPTION_BIT:
            return _predict_exception(data, start, end)
        entry = self._entries.get(code)
        if entry is None or entry.response_length is None:
            return UNPREDICTABLE
        return entry.response_length.predict(data, start, end)


def _predict_exception(data: bytes | bytearray | memoryview, start: int, end: int) -> int:
    if data[start] != FunctionCode.ENCAPSULATED_INTERFACE | EXCEPTION_BIT:
        return 2
    if start + 2 > end:
        return NEED_MORE
    if data[start + 1] != ExceptionCode.EXTENDED:
        return 2
    if start + 4 > end:
        return NEED_MORE
    return 4 + (data[start + 2] << 8 | data[start + 3])


PUBLIC: Final = FunctionTable.of(
    bits.ReadCoilsRequest,
    bits.ReadDiscreteInputsRequest,
    registers.ReadHoldingRegistersRequest,
    registers.ReadInputRegistersRequest,
    bits.WriteSingleCoilRequest,
    registers.WriteSingleRegisterRequest,
    diagnostics.ReadExceptionStatusRequest,
    diagnostics.DiagnosticsRequest,
    diagnostics.GetCommEventCounterRequest,
    diagnostics.GetCommEventLogRequest,
    bits.WriteMultipleCoilsRequest,
    registers.WriteMultipleRegistersRequest,
    diagnostics.ReportServerIdRequest,
    files.ReadFileRecordRequest,
    files.WriteFileRecordRequest,
    registers.MaskWriteRegisterRequest,
    registers.ReadWriteMultipleRegistersRequest,
    files.ReadFifoQueueRequest,
    encapsulated.EncapsulatedRequest,
)
"""Every public function code in use (AP 5.1)."""
