"""One request and its answer, as a script: the one place where a request is repeated, or fails.

The script does no I/O. It yields what is to be done next and is told what came of it, so the same
script serves sockets that block and event loops; see ``aio/driver.py`` and ``sync/driver.py``. What a
driver raises into it (no connection, connection lost, cancelled) is handled here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from everbus.client.endpoint import Endpoint
from everbus.client.health import Health
from everbus.client.options import ClientOptions
from everbus.client.retry import changes_nothing, pause_before_retry_s
from everbus.errors import ExceptionResponseError, InvalidRequestError, ModbusError, ModbusTimeoutError
from everbus.protocol.client_session import BROADCAST_UNIT, ClientSession, Completion, encode_request
from everbus.protocol.codes import function_name
from everbus.protocol.framing.mbap import MbapFramer
from everbus.protocol.framing.rtu import RtuFramer
from everbus.protocol.pdu.base import Response
from everbus.protocol.pdu.table import AnyRequest
from everbus.protocol.values import check_unit

__all__ = ["NOBODY", "Ask", "Exchange", "Pause", "Room", "Script", "Step", "exact", "new_session", "room"]


def exact(endpoint: Endpoint, options: ClientOptions) -> bool:
    """Answers are told apart by their transaction ids: there are some, and they are trusted."""
    return endpoint.identified and options.matching == "strict"


def room(endpoint: Endpoint, options: ClientOptions) -> int:
    """Requests that may be open at once on one connection."""
    return options.max_in_flight if exact(endpoint, options) else 1


AnySession = TypeVar("AnySession", bound=ClientSession)


def new_session(endpoint: Endpoint, options: ClientOptions, kind: type[AnySession]) -> AnySession:
    """The session of a new connection, of the kind that its host needs."""
    framer = MbapFramer() if endpoint.identified else RtuFramer("response", options.table)
    return kind(options.table, framer=framer, identified=endpoint.identified, matching=options.matching)


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

_new: Final = tuple.__new__
"""Builds a named tuple without a call in Python: two steps are taken for every request."""

Step: TypeAlias = Room | Ask | Pause
Script: TypeAlias = Generator[Step, Any, Response | None]


class Exchange:
    """Makes the scripts of one client.

    Args:
        peer: whom it asks, for messages.
        options: its bounds.
        clock: monotonic seconds.
        health: is told of every attempt.
    """

    __slots__ = ("_clock", "_health", "_options", "_peer", "_timeout_s")

    def __init__(self, peer: str, options: ClientOptions, clock: Callable[[], float], health: Health) -> None:
        self._peer = peer
        self._options = options
        self._clock = clock
        self._health = health
        self._timeout_s = options.timeout_s

    def require_timeout(self, least_s: float) -> None:
        """A longer deadline than the options', as somebody knows that the device is slow; 0 takes it back."""
        self._timeout_s = max(self._options.timeout_s, least_s)

    def script(self, unit: int, request: AnyRequest) -> Script:
        """The script of one call; it returns the response.

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
        pdu = encode_request(request)
        careful = not changes_nothing(request)
        self._health.calls += 1
        started = self._clock()
        attempt_s = self._timeout_s / self._most_attempts(careful)
        deadline = started + self._timeout_s
        attempts = 0
        while True:
            attempts += 1
            until = min(deadline, started + attempt_s)
            transaction = _NOT_SENT
            try:
                session: ClientSession = yield _new(Room, (unit, until, careful))
                transaction, data = session.submit(unit, request, pdu)
                self._health.attempts += 1
                completion: Completion | None = yield _new(Ask, (transaction, data, until))
                if completion is None:
                    raise self._timed_out(session, unit, request, until - started)
                transaction = _ANSWERED
                if completion.error is not None:
                    raise self._explained(completion.error, unit)
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
                if transaction >= 0:
                    session.abandon(transaction)
            if pause_s:
                yield Pause(started + pause_s)
                started = self._clock()
            self._health.retries += 1

    def _most_attempts(self, careful: bool) -> int:
        """How often a request may be sent, at most: what is never repeated has all of the time."""
        return 1 if careful and not self._options.retry_writes else self._options.retries + 1

    def _timed_out(self, session: ClientSession, unit: int, request: AnyRequest, within_s: float) -> ModbusTimeoutError:
        session.timed_out()
        return ModbusTimeoutError(
            f"unit {unit} of {self._peer} did not answer {function_name(request.function_code)} within "
            f"{within_s:.3g} s; is the unit right, is the device slower than timeout_s allows?"
        )

    def _explained(self, error: ModbusError, unit: int) -> ModbusError:
        """The same error, with the name of the device that it came from."""
        if isinstance(error, ExceptionResponseError):
            text = f"unit {unit} of {self._peer} answered {function_name(error.function_code)} with {error}"
            return ExceptionResponseError(error.code, error.function_code, text)
        return error

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
