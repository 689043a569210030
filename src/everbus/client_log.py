"""What clients log where nobody says otherwise: connections made, not made, lost and given up, at a bounded rate."""

from __future__ import annotations

import sys
from time import monotonic
from typing import TYPE_CHECKING

from everbus.observe import Event

if TYPE_CHECKING:
    from everbus.logs import LogObserver

__all__ = ["ClientLog"]


class ClientLog:
    """Writes events to the logger ``everbus.client``, which says nothing unless the program sets logging up.

    A program that has not even loaded logging has nothing set up: then it is not loaded for this.
    """

    __slots__ = ("_log",)

    def __init__(self) -> None:
        self._log: LogObserver | None = None

    def notify(self, event: Event) -> None:
        """Write an event, or count it as suppressed."""
        if self._log is None:
            if "logging" not in sys.modules:
                return
            self._log = _log()
        self._log.tick(monotonic())
        self._log.notify(event)

    def tick(self, now: float) -> None:
        """Nothing: each event looks at the time."""


def _log() -> LogObserver:
    import logging  # noqa: PLC0415  a read on the command line does without

    from everbus.logs import LogObserver  # noqa: PLC0415

    logger = logging.getLogger("everbus.client")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    return LogObserver(logger)
