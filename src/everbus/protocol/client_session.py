"""The state of one Modbus TCP conversation, seen from the client: matching answers to requests.

An answer belongs to a request if its transaction id is open and its unit, function code, echo
fields and byte count fit (spec.md 4.4). Anything else never reaches a caller as a value: it is
dropped and counted, or it fails the request it claims to answer.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from struct import error as StructError  # noqa: N812  it is a class
from typing import Final

from everbus.errors import (
    ExceptionResponseError,
    FramingError,
    InvalidRequestError,
    MismatchError,
    ModbusError,
    PduError,
    UsageError,
)
from everbus.protocol.codes import MAX_PDU_BYTES
from everbus.protocol.framing.base import Frame
from everbus.protocol.framing.mbap import MbapFramer
from everbus.protocol.pdu.base import ExceptionResponse, Response
from everbus.protocol.pdu.table import PUBLIC, AnyRequest, FunctionTable
from everbus.protocol.values import check_unit

__all__ = ["ClientSession", "Completion", "SessionStatistics", "match_response"]

_TRANSACTIONS: Final = 0x10000
_REMEMBERED: Final = 1024
"""Ids of abandoned requests that are not used again while their late answers may come."""


@dataclass(frozen=True, slots=True)
class Completion:
    """The end of one transaction: a response, or the error to raise."""

    transaction: int
    response: Response | None
    error: ModbusError | None


@dataclass(frozen=True, slots=True)
class SessionStatistics:
    """What a session has seen.

    Args:
        submitted: requests given out to be sent.
        completed: requests answered, exceptions included.
        late: answers to abandoned requests, dropped.
        unknown: answers to requests never made, or answered before, dropped.
        mismatched: answers that failed the request they claimed to answer.
    """

    submitted: int = 0
    completed: int = 0
    late: int = 0
    unknown: int = 0
    mismatched: int = 0


def match_response(request: AnyRequest, pdu: bytes, table: FunctionTable = PUBLIC) -> Response:
    """The response to a request, if this PDU is one.

    Raises:
        ExceptionResponseError: the peer answered this request with an exception.
        MismatchError: it answers something else: function code, byte count or echo differ.
        PduError: it is not legal.
    """
    response = table.decode_response(pdu)
    if isinstance(response, ExceptionResponse):
        if response.function != request.function_code:
            text = f"exception for function {response.function:02X} answers {request.function_code:02X}"
            raise MismatchError(text)
        raise ExceptionResponseError(response.exception_code, response.function)
    expected: type[Response] = request.response_type
    if not isinstance(response, expected):
        raise MismatchError(f"function {pdu[0]:02X} answers {request.function_code:02X}")
    problem = request.mismatch(response)
    if problem is not None:
        raise MismatchError(problem)
    return response


class ClientSession:
    """Open transactions of one connection.

    Args:
        table: the function codes that this client knows.
        first_transaction: the id to start with, 0..65535.
    """

    __slots__ = ("_abandoned", "_counts", "_framer", "_next", "_open", "_stale", "_table")

    def __init__(self, table: FunctionTable = PUBLIC, first_transaction: int = 1) -> None:
        self._table = table
        self._framer = MbapFramer()
        self._next = first_transaction % _TRANSACTIONS
        self._open: dict[int, tuple[int, AnyRequest]] = {}
        self._abandoned: deque[int] = deque()
        self._stale: set[int] = set()
        self._counts: dict[str, int] = dict.fromkeys(SessionStatistics.__slots__, 0)

    @property
    def fault(self) -> FramingError | None:
        """Set once the stream cannot be trusted: replace the connection."""
        return self._framer.fault

    @property
    def partial(self) -> bool:
        """The first bytes of an answer are there and its last are not."""
        return self._framer.pending > 0

    @property
    def in_flight(self) -> int:
        """Requests without an answer."""
        return len(self._open)

    def submit(self, unit: int, request: AnyRequest) -> tuple[int, bytes]:
        """Open a transaction; return its id and the bytes to send.

        Args:
            unit: 0..255.
            request: checked here, once; a client never sends what the specification forbids.

        Raises:
            InvalidRequestError: the request is not legal.
            UsageError: the unit is not one, or every transaction id is in use.
        """
        try:
            request.check()
            pdu = request.encode()
            if len(pdu) > MAX_PDU_BYTES:
                raise ValueError(f"{len(pdu)} bytes, a PDU has at most {MAX_PDU_BYTES}")
        except PduError as error:
            raise InvalidRequestError(f"{error}; it was not sent") from error
        except (StructError, ValueError, OverflowError) as error:
            raise InvalidRequestError(f"{request!r} has a value that its field cannot hold: {error}") from error
        transaction = self._allocate()
        self._open[transaction] = (check_unit(unit), request)
        self._counts["submitted"] += 1
        return transaction, self._framer.encode(unit, pdu, transaction)

    def _allocate(self) -> int:
        for _ in range(_TRANSACTIONS):
            transaction = self._next
            self._next = (transaction + 1) % _TRANSACTIONS
            if transaction not in self._open and transaction not in self._stale:
                return transaction
        raise UsageError("every transaction id is in use: too many requests in flight")

    def abandon(self, transaction: int) -> None:
        """Stop waiting for an answer; should it still come, it is dropped and counted as late."""
        if self._open.pop(transaction, None) is None:
            return
        self._abandoned.append(transaction)
        self._stale.add(transaction)
        if len(self._abandoned) > _REMEMBERED:
            self._stale.discard(self._abandoned.popleft())

    def receive(self, data: bytes | bytearray | memoryview) -> list[Completion]:
        """Take in what was read; return the transactions that ended with it, in order."""
        completions = [self._complete(frame) for frame in self._framer.feed(data)]
        return [completion for completion in completions if completion is not None]

    def _complete(self, frame: Frame) -> Completion | None:
        opened = self._open.pop(frame.transaction, None)
        if opened is None:
            self._counts["late" if frame.transaction in self._stale else "unknown"] += 1
            return None
        unit, request = opened
        try:
            if frame.unit != unit:
                raise MismatchError(f"unit {frame.unit} answers a request to unit {unit}")
            response = match_response(request, frame.pdu, self._table)
        except ExceptionResponseError as error:
            self._counts["completed"] += 1
            return Completion(frame.transaction, None, error)
        except ModbusError as error:
            self._counts["mismatched"] += 1
            return Completion(frame.transaction, None, error)
        self._counts["completed"] += 1
        return Completion(frame.transaction, response, None)

    def statistics(self) -> SessionStatistics:
        """A snapshot of what was seen."""
        return SessionStatistics(**self._counts)
