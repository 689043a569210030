"""How requests ended, for a whole client and for each unit behind it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from everbus.errors import (
    ConnectError,
    ConnectionLostError,
    ExceptionResponseError,
    ModbusError,
    ModbusTimeoutError,
    PeerError,
)
from everbus.observe import NULL_OBSERVER, Event, EventKind, Observer
from everbus.protocol.client_session import SessionStatistics

_ODD: Final = ("late", "unknown", "mismatched", "lenient")
"""What a session counts that is not as it should be."""

__all__ = ["ClientStatistics", "Health", "UnitHealth"]


@dataclass(frozen=True, slots=True)
class UnitHealth:
    """How one unit does.

    Args:
        answered: exchanges that ended with an answer, exceptions included.
        exceptions: how many of these were exceptions.
        timeouts: attempts without an answer in time.
        bad_answers: answers that could not be taken.
        silent_for: attempts since the last answer that timed out; 0: it answers.
    """

    answered: int = 0
    exceptions: int = 0
    timeouts: int = 0
    bad_answers: int = 0
    silent_for: int = 0


@dataclass(frozen=True, slots=True)
class ClientStatistics:
    """What a client has done.

    Args:
        calls: requests that the program made.
        attempts: how often one was sent.
        retries: attempts after the first of a call.
        failed: calls that raised, by the error's name; exceptions of the device included.
        cancelled: calls that the program cancelled.
        connects: connections made.
        connect_failures: tries that made none.
        lost: connections that ended while a request was open, or by the peer's doing.
        replaced: connections given up because their bytes could not be trusted any more, by reason.
        session: what came in: late, unknown and mismatched answers among it.
        units: each unit's health.
    """

    calls: int = 0
    attempts: int = 0
    retries: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    cancelled: int = 0
    connects: int = 0
    connect_failures: int = 0
    lost: int = 0
    replaced: dict[str, int] = field(default_factory=dict)
    session: SessionStatistics = field(default_factory=SessionStatistics)
    units: dict[int, UnitHealth] = field(default_factory=dict)


class _Unit:
    __slots__ = ("answered", "bad_answers", "exceptions", "silent_for", "timeouts")

    def __init__(self) -> None:
        self.answered = self.exceptions = self.timeouts = self.bad_answers = self.silent_for = 0

    def snapshot(self) -> UnitHealth:
        return UnitHealth(self.answered, self.exceptions, self.timeouts, self.bad_answers, self.silent_for)


class Health:
    """Counts, and tells of connections. One of each client; whoever makes exchanges tells it.

    Args:
        peer: whom the client asks, for events.
        observer: told of connections: made, not made, lost, given up.
    """

    __slots__ = (
        "_observer",
        "_peer",
        "_sessions",
        "_units",
        "attempts",
        "calls",
        "cancelled",
        "connect_failures",
        "connects",
        "failed",
        "lost",
        "replaced",
        "retries",
    )

    def __init__(self, peer: str = "", observer: Observer = NULL_OBSERVER) -> None:
        self._peer = peer
        self._observer = observer
        self.calls: int = 0
        self.attempts: int = 0
        self.retries: int = 0
        self.cancelled: int = 0
        self.connects: int = 0
        self.connect_failures: int = 0
        self.lost: int = 0
        self.failed: dict[str, int] = {}
        self.replaced: dict[str, int] = {}
        self._units: dict[int, _Unit] = {}
        self._sessions: dict[str, int] = {}

    def _unit(self, unit: int) -> _Unit:
        found = self._units.get(unit)
        if found is None:
            found = self._units[unit] = _Unit()
        return found

    def succeeded(self, unit: int) -> None:
        """A call was answered at its first attempt, with a value."""
        self.calls += 1
        self.attempts += 1
        found = self._units.get(unit) or self._unit(unit)
        found.answered += 1
        found.silent_for = 0

    def answered(self, unit: int) -> None:
        """A unit answered, with a value."""
        found = self._units.get(unit) or self._unit(unit)
        found.answered += 1
        found.silent_for = 0

    def attempt_failed(self, unit: int, error: ModbusError) -> None:
        """An attempt ended without a value."""
        if isinstance(error, (ConnectError, ConnectionLostError)):
            return  # the link's affair, not the unit's
        found = self._unit(unit)
        if isinstance(error, ModbusTimeoutError):
            found.timeouts += 1
            found.silent_for += 1
        elif isinstance(error, ExceptionResponseError):
            found.answered += 1
            found.exceptions += 1
            found.silent_for = 0
        elif isinstance(error, PeerError):
            found.bad_answers += 1

    def call_failed(self, error: ModbusError) -> None:
        """A call raises this."""
        name = type(error).__name__
        self.failed[name] = self.failed.get(name, 0) + 1

    def connected(self) -> None:
        """A connection is up."""
        self.connects += 1
        self._tell(EventKind.CLIENT_CONNECTED, "start" if self.connects == 1 else "again")

    def connect_failed(self, error: ModbusError) -> None:
        """A try to connect has failed."""
        self.connect_failures += 1
        self._tell(EventKind.CLIENT_CONNECT_FAILED, detail=str(error), error=error)

    def session_ended(
        self, statistics: SessionStatistics, broken: str, *, by_peer: bool = False, error: Exception | None = None
    ) -> None:
        """A connection is over; what its session counted is kept.

        Args:
            statistics: of the session.
            broken: why it was given up, if it was.
            by_peer: the peer ended it.
            error: by which it ended.
        """
        for name in SessionStatistics.__slots__:
            self._sessions[name] = self._sessions.get(name, 0) + getattr(statistics, name)
        seen = ", ".join(f"{getattr(statistics, name)} {name}" for name in _ODD if getattr(statistics, name))
        if by_peer:
            self.lost += 1
            self._tell(EventKind.CLIENT_LOST, detail=", ".join(filter(None, (str(error or ""), seen))), error=error)
        if broken:
            self.replaced[broken] = self.replaced.get(broken, 0) + 1
            self._tell(EventKind.CLIENT_REPLACED, broken, seen, error)

    def _tell(self, kind: EventKind, reason: str = "", detail: str = "", error: Exception | None = None) -> None:
        self._observer.notify(Event(kind, self._peer, reason, detail, error=error))

    def statistics(self, current: SessionStatistics | None = None) -> ClientStatistics:
        """A snapshot; ``current``: of the session that is running."""
        now = current or SessionStatistics()
        names = SessionStatistics.__slots__
        session = SessionStatistics(**{name: self._sessions.get(name, 0) + getattr(now, name) for name in names})
        return ClientStatistics(
            calls=self.calls,
            attempts=self.attempts,
            retries=self.retries,
            failed=dict(self.failed),
            cancelled=self.cancelled,
            connects=self.connects,
            connect_failures=self.connect_failures,
            lost=self.lost,
            replaced=dict(self.replaced),
            session=session,
            units={unit: found.snapshot() for unit, found in list(self._units.items())},
        )
