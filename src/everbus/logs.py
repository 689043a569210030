"""Events as log lines, at a bounded rate.

Of each kind and reason the first few lines of every ten seconds are written; the rest are counted,
and the count is written. A flood of any size costs a few kilobytes of log.
"""

from __future__ import annotations

import logging
from math import inf
from traceback import format_tb
from typing import Final

from everbus.observe import Event, EventKind

__all__ = ["LogObserver"]

_LEVELS: Final = {
    EventKind.CONNECTION_OPENED: logging.DEBUG,
    EventKind.CONNECTION_CLOSED: logging.DEBUG,
    EventKind.CLIENT_CONNECTED: logging.DEBUG,
    EventKind.LISTENER_OPENED: logging.DEBUG,
    EventKind.DESCRIPTORS_NORMAL: logging.INFO,
    EventKind.HANDLER_FAILED: logging.ERROR,
    EventKind.LISTENER_LOST: logging.ERROR,
    EventKind.PORT_OPENED: logging.DEBUG,
    EventKind.PORT_LOST: logging.ERROR,
    EventKind.CERTIFICATES_RELOADED: logging.INFO,
    EventKind.CERTIFICATES_REJECTED: logging.ERROR,
}
_CLOSED_BY_US: Final = frozenset({"frame_timeout", "write_timeout", "idle", "buffer_limit", "dead_peer", "forced"})

_ONE_LINE: Final = frozenset({EventKind.ACCEPT_FAILED, EventKind.PORT_FAILED})
"""Descriptors have run out for good, a device is not there: one line each period says it."""


class _Quota:
    """Lines of one kind and reason in the running period."""

    __slots__ = ("level", "suppressed", "written")

    def __init__(self, level: int) -> None:
        self.level = level
        self.written = 0
        self.suppressed = 0


class LogObserver:
    """Writes events to a logger.

    Args:
        logger: by default ``everbus.server``.
        lines: how many of one kind and reason are written in each period.
        period_s: its length.
    """

    def __init__(self, logger: logging.Logger | None = None, lines: int = 3, period_s: float = 10.0) -> None:
        self._logger = logger or logging.getLogger("everbus.server")
        self._lines = lines
        self._period_s = period_s
        self._quotas: dict[tuple[EventKind, str], _Quota] = {}
        self._period_end = 0.0
        self._traced: set[tuple[str, str]] = set()
        self.suppressed: int = 0
        """Lines not written since the start."""

    def notify(self, event: Event) -> None:
        """Write an event, or count it as suppressed."""
        level = _level(event)
        if not self._logger.isEnabledFor(level):
            return
        quota = self._quotas.setdefault((event.kind, event.reason), _Quota(level))
        if quota.written >= (1 if event.kind in _ONE_LINE else self._lines):
            quota.suppressed += 1
            self.suppressed += 1
            return
        quota.written += 1
        self._logger.log(level, "%s%s", _text(event), self._trace(event), extra={"event": event})

    def _trace(self, event: Event) -> str:
        """The traceback of a failed handler, once for each place and type of failure.

        Without the exception's own text, which is in the line and bounded there.
        """
        if event.kind is not EventKind.HANDLER_FAILED or event.error is None:
            return ""
        key = (type(event.error).__qualname__, _place(event.error))
        if key in self._traced or len(self._traced) >= _MOST_TRACES:
            return ""
        self._traced.add(key)
        return "\nTraceback (most recent call last):\n" + "".join(format_tb(event.error.__traceback__)).rstrip()

    def tick(self, now: float) -> None:
        """Begin a new period when the old one is over, and say what was suppressed in it.

        At infinity a server ends: what it suppressed is said, and the next one begins afresh.
        """
        if now < self._period_end:
            return
        self._period_end = now + self._period_s if now < inf else 0.0
        quotas, self._quotas = self._quotas, {}
        for (kind, reason), quota in quotas.items():
            if quota.suppressed:
                self._logger.log(quota.level, "%s: %d more were not written", _label(kind, reason), quota.suppressed)


_MOST_TRACES: Final = 20


def _place(error: BaseException) -> str:
    """Where an exception was raised: file and line."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else ""


def _level(event: Event) -> int:
    if event.kind is EventKind.CONNECTION_CLOSED and event.reason in _CLOSED_BY_US:
        return logging.INFO
    if event.kind is EventKind.CLIENT_CONNECTED and event.reason == "again":
        return logging.INFO
    if event.kind in (EventKind.LISTENER_OPENED, EventKind.PORT_OPENED) and event.reason == "again":
        return logging.WARNING
    return _LEVELS.get(event.kind, logging.WARNING)


def _label(kind: EventKind, reason: str) -> str:
    words = kind.value.replace("_", " ")
    return f"{words} ({reason})" if reason else words


def _text(event: Event) -> str:
    parts = [_label(event.kind, event.reason)]
    if event.peer:
        parts.append(event.peer)
    if event.connection_id:
        parts.append(f"connection {event.connection_id}")
    if event.detail:
        parts.append(event.detail)
    return ": ".join((parts[0], ", ".join(parts[1:]))) if len(parts) > 1 else parts[0]
