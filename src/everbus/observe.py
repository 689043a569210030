"""What happened, told to whoever wants to know.

Every refusal, eviction, timeout and failure becomes one ``Event``. An observer counts them, logs
them at a bounded rate, or does nothing. Observers are called inside the loop and must not block.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

__all__ = ["NULL_OBSERVER", "Event", "EventKind", "NullObserver", "Observer", "error_text"]


class EventKind(StrEnum):
    """The kinds of events; ``Event.reason`` says more."""

    CONNECTION_OPENED = "connection_opened"
    CONNECTION_CLOSED = "connection_closed"
    CONNECTION_REFUSED = "connection_refused"
    CONNECTION_EVICTED = "connection_evicted"
    HANDSHAKE_FAILED = "handshake_failed"
    ROLE_REJECTED = "role_rejected"
    CERTIFICATES_RELOADED = "certificates_reloaded"
    CERTIFICATES_REJECTED = "certificates_rejected"
    FRAME_REJECTED = "frame_rejected"
    REQUEST_REFUSED = "request_refused"
    HANDLER_FAILED = "handler_failed"
    HANDLER_TIMED_OUT = "handler_timed_out"
    ACCEPT_FAILED = "accept_failed"
    LISTENER_OPENED = "listener_opened"
    LISTENER_LOST = "listener_lost"
    PORT_OPENED = "port_opened"
    PORT_LOST = "port_lost"
    PORT_FAILED = "port_failed"
    ANSWER_ABANDONED = "answer_abandoned"
    CLIENT_CONNECTED = "client_connected"
    CLIENT_CONNECT_FAILED = "client_connect_failed"
    CLIENT_LOST = "client_lost"
    CLIENT_REPLACED = "client_replaced"
    LIMIT_LOWERED = "limit_lowered"
    DESCRIPTORS_HIGH = "descriptors_high"
    DESCRIPTORS_NORMAL = "descriptors_normal"
    LOOP_LAGGED = "loop_lagged"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened.

    Args:
        kind: what.
        peer: whom it concerns: the other end's address, or our own endpoint.
        reason: a short fixed label, fit for a counter: ``idle``, ``frame_timeout`` ...
        detail: words for people.
        connection_id: 1 and up; 0: no connection is concerned.
        error: the exception behind it, if there is one.
    """

    kind: EventKind
    peer: str = ""
    reason: str = ""
    detail: str = ""
    connection_id: int = 0
    error: BaseException | None = None


def error_text(error: BaseException) -> str:
    """What an exception says, in one bounded line; its type where it cannot even say that."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  somebody else's __str__
        return f"<{type(error).__name__}>"
    line = text[:_MOST_ERROR_TEXT].encode("unicode_escape").decode("ascii")  # no line of its own in a log
    return line if len(text) <= _MOST_ERROR_TEXT else f"{line}..."


class Observer(Protocol):
    """Receives events. Must be quick, and must not raise."""

    def notify(self, event: Event) -> None:
        """Something happened."""
        ...

    def tick(self, now: float) -> None:
        """Time passed: called at every sweep with the monotonic time in seconds."""
        ...


class NullObserver:
    """Looks away."""

    __slots__ = ()

    def notify(self, event: Event) -> None:
        """Do nothing."""

    def tick(self, now: float) -> None:
        """Do nothing."""


_MOST_ERROR_TEXT: Final = 300

NULL_OBSERVER: Final = NullObserver()
