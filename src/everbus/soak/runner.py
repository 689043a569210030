"""Runs a scenario: the cycles shared out among threads, a pause, and a look at the server's process."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from everbus.errors import ConfigurationError, ConnectError
from everbus.soak.sampling import Sampler, listeners, look
from everbus.soak.scenarios import (
    SCENARIOS,
    CycleFailedError,
    FailureKind,
    resolve,
)
from everbus.soak.verdicts import Figure, ProcessRecord, Verdict, judge

if TYPE_CHECKING:
    from everbus.client.endpoint import Endpoint

__all__ = ["Progress", "SoakOptions", "SoakResult", "soak"]

_GONE_FAILURES: Final = 5
_GONE_S: Final = 5.0
"""After so many failures in a row, over so long a time, the server is plainly gone."""

_AFTER_FAILURE_S: Final = 0.05
"""Pause of a worker after a failed cycle, so that a restart of the server does not cost every cycle."""

_LOOK_S: Final = 0.1
_PROGRESS_S: Final = 0.1
_SHOWN_LISTENERS: Final = 10

Progress = Callable[[str, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SoakOptions:
    """How to run a scenario.

    Args:
        scenario: its name, one of ``SCENARIOS``.
        cycles: how often, 1 or more.
        pause_at: after this cycle comes a pause; None: after half of them; 0, or ``cycles`` and
            more: no pause.
        pause_s: how long: what a server does a second later shows only if one waits.
        concurrency: connections at a time, 1..1000.
        unit: the unit that is asked, 0..255.
        timeout_s: for each connection and for each answer.
        settle_s: wait after the last cycle before the end figures are read.
        grace_s: wait at most so long for descriptors to come down to what they were at the start.

    Raises:
        ConfigurationError: a value is outside its range.
    """

    scenario: str = "churn"
    cycles: int = 2048
    pause_at: int | None = None
    pause_s: float = 1.5
    concurrency: int = 1
    unit: int = 1
    timeout_s: float = 3.0
    settle_s: float = 2.5
    grace_s: float = 5.0

    def __post_init__(self) -> None:
        if self.scenario not in SCENARIOS:
            raise ConfigurationError(f"there is no scenario {self.scenario!r}, but {', '.join(SCENARIOS)}")
        for name, low, high in (
            ("cycles", 1, 10**9),
            ("pause_at", 0, 10**9),
            ("pause_s", 0, 86_400),
            ("concurrency", 1, 1000),
            ("unit", 0, 255),
            ("timeout_s", 0.001, 3600),
            ("settle_s", 0, 3600),
            ("grace_s", 0, 3600),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ConfigurationError(f"{name} is a number of {low} to {high}, not {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SoakResult:
    """What a run has shown.

    Args:
        verdict, reason: the judgement, and why in one line.
        endpoint: URL of the server.
        options: how the run was made.
        cycles: cycles made, failed ones included; fewer than asked for if it was stopped early.
        failures: how many failed, for every kind of failure.
        first_failure: words about the first one; empty if there was none.
        rate: cycles a second, pauses left out.
        record: the server's process; None where nobody looked at it.
        new_listeners: where the process listens at the end and did not at the start, at most 10.
    """

    verdict: Verdict
    reason: str
    endpoint: str
    options: SoakOptions
    cycles: int
    failures: dict[str, int]
    first_failure: str
    rate: float
    record: ProcessRecord | None
    new_listeners: tuple[str, ...]

    @property
    def failed(self) -> int:
        """Failed cycles of every kind."""
        return sum(self.failures.values())

    def document(self) -> dict[str, Any]:
        """The same as JSON has it; times in seconds, memory in bytes."""
        record = self.record
        return {
            "ok": self.verdict is Verdict.CLEAN,
            "verdict": self.verdict.value,
            "reason": self.reason,
            "endpoint": self.endpoint,
            "pid": record.pid if record else None,
            "scenario": self.options.scenario,
            "requested": self.options.cycles,
            "concurrency": self.options.concurrency,
            "cycles": self.cycles,
            "failed": self.failed,
            "failures": self.failures,
            "first_failure": self.first_failure,
            "rate": round(self.rate, 1),
            "descriptors": _triple(record.descriptors) if record else None,
            "listeners": _triple(record.listeners) if record else None,
            "memory": _triple(record.memory) if record else None,
            "new_listeners": list(self.new_listeners),
            "settled_s": round(record.settled_s, 2) if record else None,
            "samples": [[round(s.at_s, 3), s.cycle, s.descriptors, s.listeners, s.memory_bytes] for s in record.samples]
            if record
            else [],
        }


def _triple(figure: Figure) -> dict[str, int]:
    return {"start": figure.start, "peak": figure.peak, "end": figure.end}


class _Tally:
    """What became of the cycles; shared by the workers."""

    def __init__(self) -> None:
        self.answered = 0
        self.failures = Counter[FailureKind]()
        self.first_failure = ""
        self.gone = False
        self._lock = threading.Lock()
        self._streak = 0
        self._last_answer = time.monotonic()

    @property
    def cycles(self) -> int:
        return self.answered + self.failures.total()

    def answer(self) -> None:
        with self._lock:
            self.answered += 1
            self._streak = 0
            self._last_answer = time.monotonic()

    def failure(self, error: CycleFailedError) -> None:
        with self._lock:
            self.failures[error.kind] += 1
            self.first_failure = self.first_failure or f"cycle {self.cycles}: {error}"
            self._streak += 1
            silent_s = time.monotonic() - self._last_answer
            self.gone = self._streak >= _GONE_FAILURES and silent_s >= _GONE_S


class _Run:
    """One run under way."""

    def __init__(self, endpoint: Endpoint, options: SoakOptions, progress: Progress) -> None:
        self.tally = _Tally()
        self.active_s = 0.0
        self._options = options
        self._scenario = SCENARIOS[options.scenario]
        self._endpoint = endpoint
        self._targets = resolve(endpoint, options.unit, options.timeout_s)
        self._progress = progress
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._next = 1
        self._errors: list[Exception] = []

    def make(self, at_rest: Callable[[], object]) -> None:
        """Every cycle, and the pause among them.

        Args:
            at_rest: called in the middle and after the pause, when no cycle is under way.

        Raises:
            ConnectError: no connection could be made at the start, or by this machine later.
        """
        cycles, middle = self._options.cycles, self._options.cycles // 2
        pause_at = middle if self._options.pause_at is None else self._options.pause_at
        begin = time.monotonic()
        self._first_cycle()
        self.active_s += time.monotonic() - begin
        for last in sorted({middle, pause_at}):
            if 0 < last < cycles and not self._stop.is_set():
                self._cycles_up_to(last)
                if last == pause_at:
                    self._pause()
                at_rest()
        self._cycles_up_to(cycles)

    def stop(self) -> None:
        """Make no more cycles; workers that wait for the server end with its answer or timeout."""
        self._stop.set()

    def _first_cycle(self) -> None:
        """It finds the address that takes connections; the run stays with that."""
        self._next = 2
        for target in self._targets:
            self._targets = [target]
            try:
                self._scenario.cycle(target, 1)
            except CycleFailedError as error:
                if not error.connected:
                    reason = str(error)
                    continue
                self.tally.failure(error)
            else:
                self.tally.answer()
            return
        raise ConnectError(f"{self._endpoint}: {reason}")

    def _cycles_up_to(self, last: int) -> None:
        begin = time.monotonic()
        workers = [
            threading.Thread(target=self._work, args=(last,), name=f"everbus-soak-{number}", daemon=True)
            for number in range(min(self._options.concurrency, last - self._next + 1))
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            while worker.is_alive():
                worker.join(_PROGRESS_S)
                self._progress("cycles", self.tally.cycles)
        self._progress("cycles", self.tally.cycles)
        self.active_s += time.monotonic() - begin
        if self._errors:
            raise self._errors[0]

    def _pause(self) -> None:
        self._progress("pause", self.tally.cycles)
        self._stop.wait(self._options.pause_s)

    def _work(self, last: int) -> None:
        try:
            while not self._stop.is_set() and (number := self._take(last)):
                self._cycle(number)
        except Exception as error:  # noqa: BLE001  raised again by the thread that started the run
            self._errors.append(error)
            self.stop()

    def _take(self, last: int) -> int:
        """The next cycle's number; 0 when there is none."""
        with self._lock:
            if self._next > last:
                return 0
            self._next += 1
            return self._next - 1

    def _cycle(self, number: int) -> None:
        try:
            self._scenario.cycle(self._targets[0], number)
        except CycleFailedError as error:
            self.tally.failure(error)
            if self.tally.gone:
                self.stop()
            self._stop.wait(_AFTER_FAILURE_S)
        else:
            self.tally.answer()


def soak(
    endpoint: Endpoint,
    options: SoakOptions,
    pid: int | None = None,
    progress: Progress = lambda *_: None,
) -> SoakResult:
    """Run a scenario against a server and judge it.

    Blocks until the run is over; KeyboardInterrupt ends it at once, and leaves nothing behind but
    workers that wait for an answer until their timeout.

    Args:
        endpoint: the server's.
        options: what to do.
        pid: the server's process, looked at with its children; None: nobody looks.
        progress: called now and then with what goes on (``cycles``, ``pause``, ``settling``) and
            the number of cycles made so far.

    Raises:
        ConnectError: no connection could be made at the start.
        ProcessLookupError: there is no process ``pid``.
        PermissionError: it belongs to someone else.
    """
    run = _Run(endpoint, options, progress)
    watch = None if pid is None else _Watch(pid, run)
    try:
        run.make(watch.sampler.sample if watch is not None else lambda: None)
        if watch is not None:
            progress("settling", run.tally.cycles)
            watch.settle(options)
    finally:
        run.stop()
        if watch is not None:
            watch.sampler.stop()
    return _result(endpoint, options, run, watch)


class _Watch:
    """Eyes on the server's process during one run."""

    def __init__(self, pid: int, run: _Run) -> None:
        self.pid = pid
        self.settled_s = 0.0
        self._before = listeners(pid)
        self.sampler = Sampler(lambda: look(pid), lambda: run.tally.answered, on_end=run.stop).start()

    def settle(self, options: SoakOptions) -> None:
        """Wait until the end figures can be read, and read them.

        What a server does a while after a connection must show, and what it still closes may.
        """
        if self.sampler.ended:
            return
        begin = time.monotonic()
        first = self.sampler.series.samples[0]
        time.sleep(min(options.settle_s, options.grace_s))
        while (now := self.sampler.sample()) is not None:
            self.settled_s = time.monotonic() - begin
            above = now.descriptors > first.descriptors or now.listeners > first.listeners
            if not above or self.settled_s >= options.grace_s:
                return
            time.sleep(_LOOK_S)

    def record(self) -> ProcessRecord:
        """What was seen."""
        return self.sampler.series.record(self.pid, self.settled_s, self.sampler.ended)

    def new_listeners(self) -> tuple[str, ...]:
        """Addresses that the process listens at now and did not at the start."""
        try:
            more = listeners(self.pid) - self._before
        except ProcessLookupError:
            return ()
        return tuple(sorted(more.elements()))[:_SHOWN_LISTENERS]


def _result(endpoint: Endpoint, options: SoakOptions, run: _Run, watch: _Watch | None) -> SoakResult:
    tally = run.tally
    failures = {kind.value: tally.failures[kind] for kind in FailureKind}
    record = watch.record() if watch else None
    judgement = judge(tally.cycles, failures, record, tally.gone)
    return SoakResult(
        verdict=judgement.verdict,
        reason=judgement.reason,
        endpoint=str(endpoint),
        options=options,
        cycles=tally.cycles,
        failures=failures,
        first_failure=tally.first_failure,
        rate=tally.cycles / max(run.active_s, 1e-9),
        record=record,
        new_listeners=watch.new_listeners() if watch else (),
    )
