"""The state of one conversation, seen from the client: matching answers to requests.

An answer belongs to a request if its transaction id is open and its unit, function code, echo
fields and byte count fit (spec.md 4.4). Anything else never reaches a caller as a value: it is
dropped and counted, or it fails the request it claims to answer.

Where ids are missing (serial framings) or not to be trusted (``lenient``), only one request is open
at a time, and a conversation in which an answer may still be under way, or came unasked, is
``broken``: its bytes can no longer be told apart, so the connection is replaced.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from struct import Struct
from struct import error as StructError  # noqa: N812  it is a class
from typing import Final, Literal, NamedTuple, TypeAlias, get_args

from everbus.errors import (
    ConfigurationError,
    ExceptionResponseError,
    FramingError,
    InvalidRequestError,
    MismatchError,
    ModbusError,
    PduError,
    UsageError,
)
from everbus.protocol.codes import MAX_PDU_BYTES, FunctionCode
from everbus.protocol.framing.base import Frame, Framer
from everbus.protocol.framing.mbap import HEADER_BYTES, MbapFramer
from everbus.protocol.pdu.base import ExceptionResponse, Response
from everbus.protocol.pdu.table import PUBLIC, AnyRequest, FunctionTable
from everbus.protocol.values import check_unit

__all__ = ["ClientSession", "Completion", "Matching", "SessionStatistics", "encode_request", "match_response"]

Matching: TypeAlias = Literal["strict", "lenient"]
"""How exact an answer's ids must be. ``lenient`` takes the answer to the only open request whatever
its transaction id and unit say, for devices that get these wrong (pymodbus 2709, FluentModbus 84)."""

BROADCAST_UNIT: Final = 0

_new: Final = tuple.__new__
"""Builds a named tuple without a call in Python."""

_PLAIN_HEAD: Final = Struct(">HHHBBB")
"""An MBAP header, a function code and a byte count."""

_TRANSACTIONS: Final = 0x10000
_PLAIN_READS: Final = (
    FunctionCode.READ_COILS,
    FunctionCode.READ_DISCRETE_INPUTS,
    FunctionCode.READ_HOLDING_REGISTERS,
    FunctionCode.READ_INPUT_REGISTERS,
)
_MOST_UNANSWERED: Final = 8
_REMEMBERED: Final = 1024
"""Ids of abandoned requests that are not used again while their late answers may come."""


class Completion(NamedTuple):
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
        lenient: answers taken in spite of a wrong transaction id or unit.
    """

    submitted: int = 0
    completed: int = 0
    late: int = 0
    unknown: int = 0
    mismatched: int = 0
    lenient: int = 0


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


def encode_request(request: AnyRequest) -> bytes:
    """The PDU of a request; a client never sends what the specification forbids.

    Raises:
        InvalidRequestError: the request is not legal.
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
    return pdu


class ClientSession:
    """Open transactions of one connection.

    Args:
        table: the function codes that this client knows.
        first_transaction: the id to start with, 0..65535.
        framer: parses this connection's bytes; belongs to the session from now on. MBAP by default.
        identified: the framing has transaction ids; without them one request is open at a time.
        matching: how exact an answer's ids must be.

    Raises:
        ConfigurationError: ``matching`` is neither word.
    """

    __slots__ = (
        "_abandoned",
        "_completed",
        "_counts",
        "_exact",
        "_framer",
        "_identified",
        "_lenient",
        "_next",
        "_open",
        "_plain",
        "_short",
        "_stale",
        "_submitted",
        "_table",
        "_unanswered",
        "broken",
    )

    def __init__(
        self,
        table: FunctionTable = PUBLIC,
        first_transaction: int = 1,
        *,
        framer: Framer | None = None,
        identified: bool = True,
        matching: Matching = "strict",
    ) -> None:
        if matching not in get_args(Matching):
            raise ConfigurationError(f"matching {matching!r} is none of {', '.join(get_args(Matching))}")
        self._table = table
        # The short way takes plain answers to public reads without asking the table.
        self._plain = table.agrees(PUBLIC, _PLAIN_READS)
        self._framer = framer or MbapFramer()
        self._identified = identified
        self._lenient = matching == "lenient"
        self._short = identified and self._plain
        self._exact = identified and not self._lenient
        self._next = first_transaction % _TRANSACTIONS
        self._open: dict[int, tuple[int, AnyRequest]] = {}
        self._abandoned: deque[int] = deque()
        self._stale: set[int] = set()
        self._submitted = self._completed = self._unanswered = 0
        self._counts = {"late": 0, "unknown": 0, "mismatched": 0, "lenient": 0}
        self.broken: str = ""
        """Why the connection must be replaced before the next request; empty: it need not be."""

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

    @property
    def next_transaction(self) -> int:
        """The id that the next request gets, if it is free; for the session that follows this one."""
        return self._next

    @property
    def clean(self) -> bool:
        """Everything asked was answered and nothing else is under way: anybody may go on from here."""
        return not (self._open or self.broken or self._framer.pending or self._framer.fault or self._stale)

    @property
    def most_in_flight(self) -> int:
        """Requests that may be open at once: one, where ids are missing or not trusted."""
        return _TRANSACTIONS if self._exact else 1

    def submit(self, unit: int, request: AnyRequest, pdu: bytes | None = None) -> tuple[int, bytes]:
        """Open a transaction; return its id and the bytes to send.

        Args:
            unit: 0..255.
            request: checked here, once, unless ``pdu`` is given.
            pdu: what ``encode_request`` made of it.

        Raises:
            InvalidRequestError: the request is not legal.
            UsageError: the unit is not one, or every transaction id is in use.
        """
        if pdu is None:
            pdu = encode_request(request)
        transaction = self._next
        if self._exact and transaction not in self._open and transaction not in self._stale:
            self._next = (transaction + 1) % _TRANSACTIONS
        else:
            transaction = self._allocate()
        self._open[transaction] = (unit if 0 <= unit <= 0xFF else check_unit(unit), request)
        self._submitted += 1
        return transaction, self._framer.encode(unit, pdu, transaction)

    def broadcast(self, request: AnyRequest) -> bytes:
        """The bytes of a request to unit 0 that nobody answers; should somebody, it is dropped.

        Raises:
            InvalidRequestError: the request is not legal.
            UsageError: every transaction id is in use.
        """
        pdu = encode_request(request)
        transaction = self._allocate()
        if self._identified:
            self._remember(transaction)
        self._submitted += 1
        return self._framer.encode(BROADCAST_UNIT, pdu, transaction)

    def _allocate(self) -> int:
        if not self._exact and self._open:
            raise UsageError("without trusted transaction ids one request is in flight at a time")
        if not self._identified:
            return 0
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
        self._remember(transaction)
        if not self._exact:
            self.broken = self.broken or "abandoned"

    def timed_out(self, transaction: int) -> None:
        """An answer did not come in time: abandon it. Half of an answer: its rest cannot be waited for.

        Several in a row, and nothing heard at all: the peer may be stuck. A connection that hangs at a
        device whose TCP still acknowledges is ended by nothing else. A silent unit beside one that
        answers costs nothing: every byte begins the count anew.
        """
        self.abandon(transaction)
        self._unanswered += 1
        if self._framer.pending and not self._belongs_to_an_open_one():
            self.broken = self.broken or "partial"
        if self._unanswered >= _MOST_UNANSWERED:
            self.broken = self.broken or "silent"

    def _remember(self, transaction: int) -> None:
        self._abandoned.append(transaction)
        self._stale.add(transaction)
        if len(self._abandoned) > _REMEMBERED:
            self._stale.discard(self._abandoned.popleft())

    def _belongs_to_an_open_one(self) -> bool:
        """The unfinished frame is, or may be, the answer to a request that is still open."""
        transaction = self._framer.pending_transaction
        return bool(self._open) if transaction is None else transaction in self._open

    def receive(self, data: bytes | bytearray | memoryview) -> list[Completion]:
        """Take in what was read; return the transactions that ended with it, in order."""
        self._unanswered = 0
        completions: list[Completion] = []
        for frame in self._framer.feed(data):
            completion = self._complete(frame)
            if completion is not None:
                completions.append(completion)
        return completions

    def expected(self, transaction: int) -> tuple[bytes, int]:
        """What the plain answer to an open request begins with, and how long it is; 0: nobody knows."""
        unit, request = self._open[transaction]
        size = request.plain_bytes() if self._short and not self._framer.pending else 0
        if not size:
            return b"", 0
        head = _PLAIN_HEAD.pack(transaction, 0, size + 1, unit, request.function_code, size - 2)
        return head, HEADER_BYTES + size

    def receive_plain(self, transaction: int, data: bytes) -> Completion:
        """Take in what is, as ``expected`` has it, just the plain answer to this request, and nothing else was read."""
        _, request = self._open.pop(transaction)
        self._unanswered = 0
        self._completed += 1
        return _new(Completion, (transaction, request.response_type(data[_PLAIN_HEAD.size :]), None))

    def _complete(self, frame: Frame) -> Completion | None:
        given, pdu, transaction = frame
        opened = self._open.pop(transaction, None)
        if opened is None:
            transaction = self._only_open(transaction)
            if transaction < 0:
                return None
            opened = self._open.pop(transaction)
        unit, request = opened
        try:
            if given != unit:
                self._foreign_unit(given, unit)
            response = (self._plain and request.plain_response(pdu)) or match_response(request, pdu, self._table)
        except ExceptionResponseError as error:
            self._completed += 1
            return Completion(transaction, None, error)
        except ModbusError as error:
            self._counts["mismatched"] += 1
            if not self._exact:
                self.broken = self.broken or "mismatched"
            return Completion(transaction, None, error)
        self._completed += 1
        return _new(Completion, (transaction, response, None))

    def _only_open(self, transaction: int) -> int:
        """Whom an answer with an id that is not open may be for; -1: nobody, it is dropped."""
        if transaction in self._stale:
            self._counts["late"] += 1
        elif self._lenient and self._open:
            self._counts["lenient"] += 1
            return next(iter(self._open))
        else:
            self._counts["unknown"] += 1
            if not self._exact:
                self.broken = self.broken or "unasked"
        return -1

    def _foreign_unit(self, given: int, asked: int) -> None:
        if not self._lenient:
            raise MismatchError(f"unit {given} answers a request to unit {asked}")
        self._counts["lenient"] += 1

    def statistics(self) -> SessionStatistics:
        """A snapshot of what was seen."""
        return SessionStatistics(submitted=self._submitted, completed=self._completed, **self._counts)
