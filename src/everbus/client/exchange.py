"""One request and its answer, as a script: the one place where a request is repeated, or fails.

The script does no I/O. It yields what is to be done next and is told what came of it, so the same
script serves sockets that block and event loops; see ``aio/driver.py`` and ``sync/driver.py``. What a
driver raises into it (no connection, connection lost, cancelled) is handled here and nowhere else.

A request that finds its connection up and is answered at once needs no script, as nothing has to be
decided: a driver sends it, and makes the script from the moment that something else happens.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from everbus.client.endpoint import Endpoint
from everbus.client.health import Health
from everbus.client.late import LateAnswers
from everbus.client.options import ClientOptions
from everbus.client.retry import changes_nothing, pause_before_retry_s
from everbus.errors import (
    ExceptionResponseError,
    InvalidRequestError,
    MismatchError,
    ModbusError,
    ModbusTimeoutError,
    PduError,
)
from everbus.protocol.client_session import BROADCAST_UNIT, ClientSession, Completion, encode_request
from everbus.protocol.codes import function_name
from everbus.protocol.framing.ascii import AsciiFramer
from everbus.protocol.framing.base import Framer
from everbus.protocol.framing.datagram import DatagramFramer
from everbus.protocol.framing.mbap import MbapFramer
from everbus.protocol.framing.rtu import RtuFramer
from everbus.protocol.pdu.base import Response
from everbus.protocol.pdu.bits import ReadCoilsRequest, ReadDiscreteInputsRequest
from everbus.protocol.pdu.registers import ReadHoldingRegistersRequest, ReadInputRegistersRequest
from everbus.protocol.pdu.table import AnyRequest
from everbus.protocol.values import check_unit

__all__ = ["NOBODY", "Ask", "Exchange", "Pause", "Room", "Script", "Step", "exact", "new_session", "prepared", "room"]


def exact(endpoint: Endpoint, options: ClientOptions) -> bool:
    """Answers are told apart by their transaction ids: there are some, and they are trusted."""
    return endpoint.identified and options.matching == "strict"


def room(endpoint: Endpoint, options: ClientOptions) -> int:
    """Requests that may be open at once on one connection."""
    return options.max_in_flight if exact(endpoint, options) else 1


AnySession = TypeVar("AnySession", bound=ClientSession)


def new_session(
    endpoint: Endpoint, options: ClientOptions, kind: type[AnySession], before: ClientSession | None = None
) -> AnySession:
    """The session of a new connection, of the kind that its host needs.

    Its transaction ids go on where those of the session before ended: over UDP a late answer may find its way here.
    """
    return kind(
        options.table,
        1 if before is None else before.next_transaction,
        framer=_framer(endpoint, options),
        identified=endpoint.identified,
        matching=options.matching,
    )


def _framer(endpoint: Endpoint, options: ClientOptions) -> Framer:
    if endpoint.framing == "rtu":
        return RtuFramer("response", options.table)
    if endpoint.framing == "ascii":
        return AsciiFramer(lenient=True)
    return DatagramFramer() if endpoint.scheme == "udp" else MbapFramer()


class Room(NamedTuple):
    """Give me a connection with room for a request to this unit, until then at the latest.

    Answered with its session. Raises ``ConnectError`` or ``ModbusTimeoutError`` into the script. The
    room is taken until the script asks for another, or ends.
    """

    unit: int
    until: float
    careful: bool
    """The request must not be lost with a connection that has ended: look whether it has."""


class Ask(NamedTuple):
    """Send this, and wait for the end of its transaction; for ``NOBODY`` do not wait.

    Answered with the ``Completion``, or None: the time is over. Raises ``ConnectionLostError``.
    """

    transaction: int
    data: bytes
    until: float


class Pause(NamedTuple):
    """Wait until then."""

    until: float


NOBODY: Final = -1
"""Instead of a transaction: nobody answers."""

_NOT_SENT: Final = -1
_ANSWERED: Final = -2
"""Instead of the id of a transaction that is open."""

_PLAIN_READS: Final = (
    ReadCoilsRequest,
    ReadDiscreteInputsRequest,
    ReadHoldingRegistersRequest,
    ReadInputRegistersRequest,
)
_PLAIN_NUMBERS: Final[dict[type, int]] = {kind: number for number, kind in enumerate(_PLAIN_READS)}


def prepared(request: AnyRequest) -> tuple[bytes, bool]:
    """The PDU of a request, and whether it must not be lost, as it changes something.

    Raises:
        InvalidRequestError: the request is not legal.
    """
    number = _PLAIN_NUMBERS.get(type(request))
    if number is not None:
        plain: Any = request
        return _plain_read(number, plain.address, plain.quantity)
    return encode_request(request), not changes_nothing(request)


@lru_cache(maxsize=1024, typed=True)
def _plain_read(number: int, address: int, quantity: int) -> tuple[bytes, bool]:
    """As ``prepared``; the same reads are asked again and again."""
    return encode_request(_PLAIN_READS[number](address, quantity)), False


Step: TypeAlias = Room | Ask | Pause
Script: TypeAlias = Generator[Step, Any, Response | None]


class Exchange:
    """Makes the scripts of one client.

    Args:
        endpoint: whom it asks.
        options: its bounds.
        clock: monotonic seconds.
        health: is told of every attempt.
    """

    __slots__ = ("_clock", "_health", "_late", "_options", "_peer", "_timeout_s", "read_s", "write_s")

    def __init__(self, endpoint: Endpoint, options: ClientOptions, clock: Callable[[], float], health: Health) -> None:
        self._peer = str(endpoint)
        self._late = LateAnswers() if endpoint.serial is not None else None
        self._options = options
        self._clock = clock
        self._health = health
        self._timeout_s: float
        self.read_s: float
        """How long an attempt to read may take."""
        self.write_s: float
        """How long an attempt to change something may take: what is never repeated has all of the time."""
        self.require_timeout(0.0)

    def require_timeout(self, least_s: float) -> None:
        """A longer deadline than the options', as somebody knows that the device is slow; 0 takes it back."""
        self._timeout_s = max(self._options.timeout_s, least_s)
        self.read_s = self._timeout_s / (self._options.retries + 1)
        self.write_s = self.read_s if self._options.retry_writes else self._timeout_s

    def script(
        self, unit: int, request: AnyRequest, started: float, session: ClientSession | None = None, transaction: int = 0
    ) -> Script:
        """The script of one call; it returns the response.

        Args:
            unit: that is asked, 0..255.
            request: what is asked.
            started: when the call was made, on the clock.
            session: where the first attempt was sent already, as ``transaction``; the first step is to
                wait for its answer. None: nothing was sent.
            transaction: see there.

        Raises:
            InvalidRequestError: the request is not legal. Nothing was sent.
            UsageError: the unit is outside 0..255. Nothing was sent.
            ExceptionResponseError: the device answered with an exception.
            MismatchError: an answer that is not one to this request.
            PduError: an answer that is not legal.
            ConnectError: no connection could be made.
            ConnectionLostError: it ended before the answer came.
            ModbusTimeoutError: the deadline passed.
        """
        check_unit(unit)
        pdu, careful = prepared(request)
        self._health.calls += 1
        deadline = started + self._timeout_s
        attempts, data = 0, b""
        while True:
            attempts += 1
            until = min(deadline, started + (self.write_s if careful else self.read_s))
            try:
                if session is None:
                    transaction = _NOT_SENT
                    session = yield from self._room(unit, pdu, until, careful)
                    transaction, data = session.submit(unit, request, pdu)
                self._health.attempts += 1
                completion: Completion | None = yield Ask(transaction, data, until)
                if completion is None:
                    raise self._silent(session, transaction, unit, request, until - started)
                transaction = _ANSWERED
                if completion.error is not None:
                    raise self._explained(completion.error, unit, request)
                self._health.answered(unit)
                return completion.response
            except ModbusError as error:
                if transaction != _NOT_SENT:
                    self._health.attempt_failed(unit, error)
                pause_s = pause_before_retry_s(error, request, transaction != _NOT_SENT, self._options)
                started = self._clock()
                if pause_s is None or attempts > self._options.retries or started + pause_s >= deadline:
                    self._health.call_failed(error)
                    raise
            finally:
                if session is not None and transaction >= 0:
                    self._abandon(session, transaction, unit, pdu, careful)
                session = None
            if pause_s:
                yield Pause(started + pause_s)
                started = self._clock()
            self._health.retries += 1

    def _room(self, unit: int, pdu: bytes, until: float, careful: bool) -> Generator[Step, Any, ClientSession]:
        """Room on the connection, once no late answer can be taken for the one that is wanted."""
        while True:
            session: ClientSession = yield Room(unit, until, careful)
            now = self._clock()
            ready_at = self._late.ready_at(unit, pdu, now) if self._late is not None else 0.0
            if not ready_at:
                if self._late is not None:
                    self._late.sent(unit, self._may_come_until(careful))
                return session
            if ready_at >= until:
                raise ModbusTimeoutError(
                    f"unit {unit} of {self._peer} may still answer the request before, which looks alike: it may be "
                    f"asked {ready_at - now:.3g} s from now"
                )
            yield Pause(ready_at)

    def _may_come_until(self, careful: bool) -> float:
        """When an answer that is asked for now is not expected any more: after twice the time that it has."""
        return self._clock() + 2 * (self.write_s if careful else self.read_s)

    def _abandon(self, session: ClientSession, transaction: int, unit: int, pdu: bytes, careful: bool) -> None:
        session.abandon(transaction)
        if self._late is not None:
            self._late.unanswered(unit, pdu, self._may_come_until(careful))

    def _silent(
        self, session: ClientSession, transaction: int, unit: int, request: AnyRequest, within_s: float
    ) -> ModbusTimeoutError:
        session.timed_out(transaction)
        return ModbusTimeoutError(
            f"unit {unit} of {self._peer} did not answer {function_name(request.function_code)} within "
            f"{within_s:.3g} s; is the unit right, is the device slower than timeout_s allows?"
        )

    def _explained(self, error: ModbusError, unit: int, request: AnyRequest) -> ModbusError:
        """The same error, with the name of the device that it came from."""
        text = f"unit {unit} of {self._peer} answered {function_name(request.function_code)} with"
        explained: ModbusError = error
        if isinstance(error, ExceptionResponseError):
            return ExceptionResponseError(error.code, error.function_code, f"{text} {error}")
        if isinstance(error, PduError):
            explained = PduError(error.exception_code, f"{text} what is not legal: {error}")
        elif isinstance(error, MismatchError):
            explained = MismatchError(f"{text} something else: {error}")
        explained.__cause__ = error if explained is not error else None
        return explained

    def broadcast(self, request: AnyRequest) -> Script:
        """The script of a request to every unit of a serial line behind the peer; nobody answers it."""
        if changes_nothing(request):
            raise InvalidRequestError("nobody answers a broadcast: it cannot read; it was not sent")
        encode_request(request)
        self._health.calls += 1
        until = self._clock() + self._options.timeout_s
        try:
            session: ClientSession = yield Room(BROADCAST_UNIT, until, True)
            self._health.attempts += 1
            yield Ask(NOBODY, session.broadcast(request), until)
        except ModbusError as error:
            self._health.call_failed(error)
            raise
        return None
