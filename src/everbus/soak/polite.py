"""Clients that do nothing wrong, beside those that do: they must be served as if they were alone."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Self

from everbus.errors import ConnectError
from everbus.soak.asking import Asker, asking
from everbus.soak.latency import Histogram, Timeline
from everbus.soak.target import CutShortError, CycleFailedError, FailureKind, Stop, Target
from everbus.soak.verdicts import PoliteRecord

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["INTERVAL_S", "OwnDelay", "PoliteClients"]

INTERVAL_S: Final = 0.05
"""Between two requests of a polite client."""

_QUANTITIES: Final = 10
"""Requests ask for 1 to 10 registers in turn: an answer to another one shows."""

_TICK_S: Final = 0.01
_NOTED_S: Final = 0.002
_NOTED: Final = 4096
_EXCUSE_SHARE: Final = 0.25


class OwnDelay:
    """How late this machine itself is: a thread that sleeps 10 ms again and again, and looks at the clock.

    It is what keeps a server from being blamed for a busy machine, or for this process.
    """

    def __init__(self) -> None:
        self.worst_s: float = 0.0
        self._noted: deque[tuple[float, float]] = deque(maxlen=_NOTED)
        self._due = time.monotonic() + _TICK_S
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="everbus-soak-delay", daemon=True)

    def start(self) -> Self:
        """Begin to measure."""
        self._due = time.monotonic() + _TICK_S
        self._thread.start()
        return self

    def stop(self) -> None:
        """Measure no more; returns when the thread has ended."""
        self._stopping.set()
        self._thread.join()

    def since(self, begin: float) -> float:
        """The longest delay that ended after this time, or goes on now; in seconds, 0 or more."""
        now = time.monotonic()
        worst = max(now - self._due, 0.0)
        for ended, delay in reversed(self._noted.copy()):
            if ended < begin:
                break
            worst = max(worst, delay)
        return worst

    def excuses(self, error: CycleFailedError, begin: float, timeout_s: float) -> bool:
        """Whether an answer that did not come in time may be this machine's own fault."""
        by_time = error.kind in (FailureKind.TIMEOUT, FailureKind.MISSING, FailureKind.DEAF)
        return by_time and self.since(begin) >= _EXCUSE_SHARE * timeout_s

    def _run(self) -> None:
        while not self._stopping.wait(max(self._due - time.monotonic(), 0)):
            now = time.monotonic()
            delay = now - self._due
            if delay >= _NOTED_S:
                self._noted.append((now, delay))
            self.worst_s = max(self.worst_s, delay)
            self._due = now + _TICK_S


class _Book:
    """What the clients report; shared by them."""

    def __init__(self, late_s: float | None, on_error: Callable[[Exception], None]) -> None:
        self.late_s = late_s
        self.on_error = on_error
        self.late = 0
        self.requests = 0
        self.excused = 0
        self.failures = Counter[FailureKind]()
        self.first_failure = ""
        self.histogram = Histogram()
        self.timeline = Timeline()
        self._begin = time.monotonic()
        self._lock = threading.Lock()

    def answered(self, took_s: float, own_delay_s: float) -> None:
        with self._lock:
            self.requests += 1
            self.histogram.add(took_s)
            self.timeline.answered(time.monotonic() - self._begin, took_s)
            excess_s = took_s - 2 * own_delay_s - self.late_s if self.late_s is not None else 0.0
            if excess_s > 0:
                self.late += 1 + int(excess_s / INTERVAL_S)

    def excuse(self) -> None:
        with self._lock:
            self.excused += 1

    def failed(self, error: CycleFailedError) -> None:
        with self._lock:
            self.requests += 1
            self.failures[error.kind] += 1
            self.timeline.failed(time.monotonic() - self._begin)
            self.first_failure = self.first_failure or f"polite request {self.requests}: {error}"


class _Client:
    """One of them. ``heard`` is set once it has had an answer, or has failed."""

    def __init__(self, target: Target, stop: Stop, book: _Book, own_delay: OwnDelay, begin_after_s: float) -> None:
        self.thread = threading.Thread(target=self._run, name="everbus-soak-polite", daemon=True)
        self.heard = threading.Event()
        self._target = target
        self._stop = stop
        self._book = book
        self._own_delay = own_delay
        self._begin_after_s = begin_after_s
        self._asked = 0

    def _run(self) -> None:
        self._stop.wait(self._begin_after_s)
        try:
            with suppress(CutShortError):
                while not self._stop.is_set():
                    with asking(self._target) as asker:
                        self._talk(asker)
        except Exception as error:  # noqa: BLE001  raised again by the thread that started the run
            self._book.on_error(error)
        finally:
            self.heard.set()

    def _talk(self, asker: Asker) -> None:
        """Ask as long as it can connect."""
        connected = True  # else a new client comes: this one would spare the server, and each request due counts
        while connected and not self._stop.is_set():
            begin = time.monotonic()
            connected = self._ask(asker, begin)
            self.heard.set()
            self._stop.wait(begin + INTERVAL_S - time.monotonic())

    def _ask(self, asker: Asker, begin: float) -> bool:
        """One request; whether it had a connection."""
        self._asked += 1
        try:
            asker.connect()
            asked_at = time.monotonic()
            asker.read(1 + self._asked % _QUANTITIES)
        except ConnectError:
            self._book.excuse()
            return False
        except CycleFailedError as error:
            if self._own_delay.excuses(error, begin, self._target.timeout_s):
                self._book.excuse()
            else:
                self._book.failed(error)
            return error.connected
        self._book.answered(time.monotonic() - asked_at, self._own_delay.since(asked_at))
        return True


class PoliteClients:
    """Each is an everbus client with one connection that asks every 50 ms; every answer is checked.

    Args:
        target: the server; they go on until they are stopped themselves, whatever its ``stop`` says.
        count: how many, 1 or more.
        own_delay: of this machine.
        late_s: the time that an answer may take; None: until the timeout.
        on_error: takes, in any thread, an error that is nobody's but ours; that client has ended.
    """

    def __init__(
        self,
        target: Target,
        count: int,
        own_delay: OwnDelay,
        late_s: float | None,
        on_error: Callable[[Exception], None],
    ) -> None:
        self._stop = Stop()
        self._own_delay = own_delay
        self._book = _Book(late_s, on_error)
        target = replace(target, stop=self._stop)
        self._clients = [
            _Client(target, self._stop, self._book, own_delay, INTERVAL_S * number / count) for number in range(count)
        ]

    def start(self) -> None:
        """Begin; returns when each of them has had its first answer, or failed."""
        for client in self._clients:
            client.thread.start()
        for client in self._clients:
            client.heard.wait()

    def stop(self) -> None:
        """End; returns when all have ended."""
        self._stop.set()
        for client in self._clients:
            if client.thread.ident is not None:  # it was started
                client.thread.join()
        self._stop.close()

    def record(self) -> PoliteRecord:
        """What they have seen so far."""
        book = self._book
        return PoliteRecord(
            clients=len(self._clients),
            requests=book.requests,
            failures={kind.value: count for kind, count in book.failures.items()},
            first_failure=book.first_failure,
            excused=book.excused,
            late_s=book.late_s,
            late=book.late,
            p50_s=book.histogram.percentile(0.5),
            p99_s=book.histogram.percentile(0.99),
            worst_s=book.histogram.worst_s,
            own_worst_s=self._own_delay.worst_s,
            samples=book.timeline.samples(),
        )
