"""Status, counters and identity of a device: 07, 08, 0B, 0C and 11 (AP 6.7 to 6.10, 6.13)."""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import ClassVar, Final, Generic, Self, TypeVar

from everbus.errors import PduError
from everbus.protocol.codes import (
    MAX_EVENT_LOG_BYTES,
    NOT_A_DELIMITER,
    DiagnosticCode,
    ExceptionCode,
    FunctionCode,
    diagnostic_name,
)
from everbus.protocol.pdu.base import CountedLength, LengthRule, Pdu, Request, Response, malformed
from everbus.protocol.pdu.layouts import CountedData

__all__ = [
    "RESTART_CLEARING_LOG",
    "BareRequest",
    "DiagnosticsRequest",
    "DiagnosticsResponse",
    "GetCommEventCounterRequest",
    "GetCommEventCounterResponse",
    "GetCommEventLogRequest",
    "GetCommEventLogResponse",
    "ReadExceptionStatusRequest",
    "ReadExceptionStatusResponse",
    "ReportServerIdRequest",
    "ReportServerIdResponse",
]

RESTART_CLEARING_LOG: Final = b"\xff\x00"
"""Data of 08/01 that also clears the event log (AP 6.8)."""

_COUNTER = Struct(">BHH")
_LOG_HEAD = Struct(">BBHHH")
_SUB_FUNCTION = Struct(">BH")
_NOTHING = b"\x00\x00"

_ECHOED = frozenset(
    {
        DiagnosticCode.RETURN_QUERY_DATA,
        DiagnosticCode.RESTART_COMMUNICATIONS,
        DiagnosticCode.CHANGE_ASCII_DELIMITER,
        DiagnosticCode.CLEAR_COUNTERS,
        DiagnosticCode.CLEAR_OVERRUN_COUNTER,
    }
)

R = TypeVar("R", bound=Response)


def _known(sub_function: int) -> DiagnosticCode:
    """The sub-function, or exception 01 (AP 6.8.2)."""
    try:
        return DiagnosticCode(sub_function)
    except ValueError:
        text = f"diagnostics: sub-function {sub_function:04X} is not known"
        raise PduError(ExceptionCode.ILLEGAL_FUNCTION, text) from None


class BareRequest(Request[R], Generic[R]):
    """A request that is its function code and nothing else."""

    __slots__ = ()
    length: ClassVar[LengthRule | None] = CountedLength(1)

    @classmethod
    def parse(cls, pdu: bytes) -> Self:
        if len(pdu) != 1:
            raise malformed(cls.function_code, f"a request has 1 byte, this one {len(pdu)}")
        return cls()

    def encode(self) -> bytes:
        return bytes((self.function_code,))

    def fields(self) -> dict[str, object]:
        return {}

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self)

    def __hash__(self) -> int:
        return hash(type(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


@dataclass(slots=True)
class ReadExceptionStatusResponse(Response):
    """Eight device-specific status bits, 0..255; bit 0 is the lowest output."""

    status: int

    function_code: ClassVar[int] = FunctionCode.READ_EXCEPTION_STATUS
    length: ClassVar[LengthRule | None] = CountedLength(2)

    @classmethod
    def parse(cls, pdu: bytes) -> Self:
        if len(pdu) != 2:
            raise malformed(cls.function_code, f"a response has 2 bytes, this one {len(pdu)}")
        return cls(pdu[1])

    def encode(self) -> bytes:
        return bytes((self.function_code, self.status))

    def fields(self) -> dict[str, object]:
        return {"status": self.status}


class ReadExceptionStatusRequest(BareRequest[ReadExceptionStatusResponse]):
    """Read the exception status, 07."""

    __slots__ = ()
    function_code: ClassVar[int] = FunctionCode.READ_EXCEPTION_STATUS
    response_type = ReadExceptionStatusResponse


@dataclass(slots=True)
class _Diagnostics(Pdu):
    sub_function: int
    data: bytes

    function_code: ClassVar[int] = FunctionCode.DIAGNOSTICS
    # Sub-function 00 may carry more words: only the frame tells (spec.md 1.5).
    length: ClassVar[LengthRule | None] = CountedLength(5)

    @classmethod
    def parse(cls, pdu: bytes) -> Self:
        sub_function = int.from_bytes(pdu[1 : _SUB_FUNCTION.size], "big")
        if len(pdu) < _SUB_FUNCTION.size or len(pdu) % 2 == 0:
            if len(pdu) >= _SUB_FUNCTION.size:
                _known(sub_function)  # that is asked first (AP 6.8.2)
            raise malformed(cls.function_code, f"{len(pdu)} bytes are not a sub-function and whole words")
        return cls(sub_function, pdu[_SUB_FUNCTION.size :])

    def check(self) -> None:
        code = _known(self.sub_function)
        words, rest = divmod(len(self.data), 2)
        if rest or not words or (words > 1 and code is not DiagnosticCode.RETURN_QUERY_DATA):
            raise malformed(self.function_code, f"{code.name.lower()} does not take {len(self.data)} bytes of data")

    def encode(self) -> bytes:
        return _SUB_FUNCTION.pack(self.function_code, self.sub_function) + self.data

    def fields(self) -> dict[str, object]:
        return {
            "sub_function": self.sub_function,
            "sub_name": diagnostic_name(self.sub_function),
            "data_hex": self.data.hex(),
        }


class DiagnosticsResponse(_Diagnostics, Response):
    """An echo, or a 16-bit value in ``data``."""

    __slots__ = ()


class DiagnosticsRequest(_Diagnostics, Request[DiagnosticsResponse]):
    """Diagnostics, 08: ``data`` is one word, any number of words for sub-function 00."""

    __slots__ = ()
    response_type = DiagnosticsResponse

    def check(self) -> None:
        super().check()
        if self.sub_function == DiagnosticCode.RETURN_QUERY_DATA:
            return
        if self.sub_function == DiagnosticCode.RESTART_COMMUNICATIONS:
            legal = self.data in (_NOTHING, RESTART_CLEARING_LOG)
        elif self.sub_function == DiagnosticCode.CHANGE_ASCII_DELIMITER:
            legal = self.data[1] == 0 and self.data[0] not in NOT_A_DELIMITER
        else:
            legal = self.data == _NOTHING
        if not legal:
            raise malformed(self.function_code, f"data {self.data.hex()} is not legal for {self.sub_function:04X}")

    def respond(self, value: int | None = None) -> DiagnosticsResponse:
        """The echo, or the response with a 16-bit value."""
        data = self.data if value is None else value.to_bytes(2, "big")
        return DiagnosticsResponse(self.sub_function, data)

    def mismatch(self, response: DiagnosticsResponse) -> str | None:
        if response.sub_function != self.sub_function:
            return f"sub-function {response.sub_function:04X} answers {self.sub_function:04X}"
        if self.sub_function in _ECHOED and response.data != self.data:
            return f"the echo says {response.data.hex()}, not {self.data.hex()}"
        return None


@dataclass(slots=True)
class GetCommEventCounterResponse(Response):
    """``status`` FFFF while a program command runs, else 0000; ``event_count`` of 16 bits."""

    status: int
    event_count: int

    function_code: ClassVar[int] = FunctionCode.GET_COMM_EVENT_COUNTER
    length: ClassVar[LengthRule | None] = CountedLength(5)

    @classmethod
    def parse(cls, pdu: bytes) -> Self:
        if len(pdu) != _COUNTER.size:
            raise malformed(cls.function_code, f"a response has 5 bytes, this one {len(pdu)}")
        _, status, event_count = _COUNTER.unpack(pdu)
        return cls(status, event_count)

    def encode(self) -> bytes:
        return _COUNTER.pack(self.function_code, self.status, self.event_count)

    def fields(self) -> dict[str, object]:
        return {"status": self.status, "event_count": self.event_count}


class GetCommEventCounterRequest(BareRequest[GetCommEventCounterResponse]):
    """Read the event counter, 0B."""

    __slots__ = ()
    function_code: ClassVar[int] = FunctionCode.GET_COMM_EVENT_COUNTER
    response_type = GetCommEventCounterResponse


@dataclass(slots=True)
class GetCommEventLogResponse(Response):
    """The counters, and 0..64 event bytes, newest first (spec.md 1.6)."""

    status: int
    event_count: int
    message_count: int
    events: bytes

    function_code: ClassVar[int] = FunctionCode.GET_COMM_EVENT_LOG
    length: ClassVar[LengthRule | None] = CountedLength(2, count_at=1)

    @classmethod
    def parse(cls, pdu: bytes) -> Self:
        if len(pdu) < _LOG_HEAD.size or len(pdu) != 2 + pdu[1]:
            raise malformed(cls.function_code, f"the byte count does not fit a PDU of {len(pdu)} bytes")
        _, _, status, event_count, message_count = _LOG_HEAD.unpack_from(pdu)
        return cls(status, event_count, message_count, pdu[_LOG_HEAD.size :])

    def check(self) -> None:
        if len(self.events) > MAX_EVENT_LOG_BYTES:
            raise malformed(self.function_code, f"{len(self.events)} events are more than 64")

    def encode(self) -> bytes:
        size = _LOG_HEAD.size - 2 + len(self.events)
        head = _LOG_HEAD.pack(self.function_code, size, self.status, self.event_count, self.message_count)
        return head + self.events

    def fields(self) -> dict[str, object]:
        return {
            "byte_count": 6 + len(self.events),
            "status": self.status,
            "event_count": self.event_count,
            "message_count": self.message_count,
            "events": list(self.events),
        }


class GetCommEventLogRequest(BareRequest[GetCommEventLogResponse]):
    """Read the event log, 0C."""

    __slots__ = ()
    function_code: ClassVar[int] = FunctionCode.GET_COMM_EVENT_LOG
    response_type = GetCommEventLogResponse


class ReportServerIdResponse(CountedData, Response):
    """Device-specific identification, then run status (00 off, FF on), then what the device adds."""

    __slots__ = ()
    function_code: ClassVar[int] = FunctionCode.REPORT_SERVER_ID


class ReportServerIdRequest(BareRequest[ReportServerIdResponse]):
    """Ask a device what it is, 11."""

    __slots__ = ()
    function_code: ClassVar[int] = FunctionCode.REPORT_SERVER_ID
    response_type = ReportServerIdResponse
