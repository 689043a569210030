"""How the process of a server is: whether something blocks its loop, how many descriptors it has open."""

from __future__ import annotations

import asyncio

from everbus.errors import ConfigurationError
from everbus.observe import Event, EventKind, Observer
from everbus.resources import DescriptorWatcher, descriptor_count, descriptor_limit

__all__ = ["Vitals", "open_descriptors"]

_LAG_S = 0.25
"""How often a beat comes; one that comes so much later means that something blocked the loop."""

_DESCRIPTOR_CHECK_S = 2.0


class Vitals:
    """Looks at the loop and at the descriptors from time to time, from now on.

    Args:
        observer: told of lags, and when descriptors become scarce.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._loop = asyncio.get_running_loop()
        self._watcher = DescriptorWatcher(descriptor_limit())
        self.max_lag_s: float = 0.0
        """The longest time for which the loop was seen blocked."""
        self._beat(self._loop.time())
        self._watch_timer = self._loop.call_later(_DESCRIPTOR_CHECK_S, self._watch)

    def _beat(self, due: float) -> None:
        """Notice that something blocked the loop: this came later than it should."""
        now = self._loop.time()
        lag = now - due
        if lag > _LAG_S:
            self.max_lag_s = max(self.max_lag_s, lag)
            text = f"something blocked the event loop for {lag:.2f} s"
            self._observer.notify(Event(EventKind.LOOP_LAGGED, detail=text))
        self._beat_timer = self._loop.call_later(_LAG_S, self._beat, now + _LAG_S)

    def _watch(self) -> None:
        try:
            for alarm in self._watcher.check(open_descriptors() or 0):
                self._observer.notify(alarm.event)
        finally:
            self._watch_timer = self._loop.call_later(_DESCRIPTOR_CHECK_S, self._watch)

    def stop(self) -> None:
        """Look no more."""
        self._beat_timer.cancel()
        self._watch_timer.cancel()


def open_descriptors() -> int | None:
    """How many this process has open; None where the system does not tell."""
    try:
        return descriptor_count()
    except (ConfigurationError, OSError):
        return None
