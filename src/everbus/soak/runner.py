"""Runs a scenario: the cycles shared out among threads, a pause, and a look at the server's process."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from everbus.errors import ConnectError
from everbus.soak.asking import ClientTotals
from everbus.soak.options import SoakOptions
from everbus.soak.polite import OwnDelay, PoliteClients
from everbus.soak.result import PartCount, SoakResult
from everbus.soak.sampling import Sampler, listeners, look
from everbus.soak.scenarios import SCENARIOS
from everbus.soak.tally import Clock, Tally
from everbus.soak.target import CutShortError, CycleFailedError, FailureKind, Stop, Target, TurnedAwayError, resolve
from everbus.soak.verdicts import Beside, ProcessRecord, judge

if TYPE_CHECKING:
    from everbus.client.endpoint import Endpoint

__all__ = ["Progress", "SoakOptions", "SoakResult", "soak"]

_AFTER_FAILURE_S: Final = 0.05
"""Pause of a worker after a failed cycle, so that a restart of the server does not cost every cycle."""

_LOOK_S: Final = 0.1
_LOOKS: Final = 2000
_MOST_BETWEEN_LOOKS_S: Final = 0.5
_PROGRESS_S: Final = 0.1
_SHOWN_LISTENERS: Final = 10
_END_S: Final = 1.0

Progress = Callable[[str, int], None]


class _Run:
    """One run under way."""

    def __init__(self, endpoint: Endpoint, options: SoakOptions, progress: Progress) -> None:
        self.tally = Tally()
        self.totals = ClientTotals()
        self.active_s = 0.0
        self.duration_s = 0.0
        self.interrupted = False
        self.clock = Clock(options.rate)
        self.own_delay = OwnDelay()
        self.polite: PoliteClients | None = None
        self._options = options
        self._scenario = SCENARIOS[options.scenario]
        self._endpoint = endpoint
        self._stop = Stop()
        self._targets: list[Target] = []
        self._progress = progress
        self._lock = threading.Lock()
        self._end = math.inf
        self._alarm: threading.Timer | None = None
        self._next = 1
        self._errors: list[Exception] = []
        self._workers: list[threading.Thread] = []

    def begin(self) -> None:
        """Find the server, and let the polite clients in, if there are any: it is looked at from then on.

        Raises:
            ConnectError: its name is not known, or no connection could be made.
        """
        options = self._options
        self.own_delay.start()
        self._targets = resolve(
            self._endpoint,
            unit=options.unit,
            timeout_s=options.timeout_s,
            hold_s=options.hold_s,
            stop=self._stop,
            totals=self.totals,
        )
        if options.polite:
            self._targets = [self._reach()]
            late_s = self._scenario.late_s
            self.polite = PoliteClients(self._targets[0], options.polite, self.own_delay, late_s, self._broken)
            self.polite.start()

    def make(self, at_rest: Callable[[], object]) -> None:
        """Every cycle, and the pause among them.

        Args:
            at_rest: called in the middle and after the pause, when no cycle is under way.

        Raises:
            ConnectError: no connection could be made at the start, or by this machine later.
        """
        options = self._options
        begin = time.monotonic()
        if options.duration_s is not None:
            self._end = begin + options.duration_s
            self._alarm = threading.Timer(options.duration_s, self.stop)
            self._alarm.daemon = True
            self._alarm.start()
        last = math.inf if options.cycles is None else options.cycles
        if self.polite is None:
            self._first_cycle()
            self.active_s += time.monotonic() - begin
        self.clock.restart()
        try:
            self._cycles_and_rests(last, at_rest)
        except KeyboardInterrupt:
            if not self.tally.cycles:
                raise
            self.interrupted = True
            self.stop()
        self.duration_s = time.monotonic() - begin

    def _cycles_and_rests(self, last: float, at_rest: Callable[[], object]) -> None:
        pause_at, rests = self._rests()
        for rest_at in rests:
            if 0 < rest_at < last:
                self._cycles_up_to(rest_at)
                if self._next <= rest_at:
                    break  # the time is up
                if rest_at == pause_at:
                    self._pause()
                at_rest()
                self.clock.restart()
        self._cycles_up_to(last)

    def _rests(self) -> tuple[int, list[int]]:
        """After which cycle to pause (0: after none), and after which ones to look at the server at rest."""
        cycles, pause_at = self._options.cycles, self._options.pause_at
        if cycles is None:
            return pause_at or 0, [pause_at or 0]
        half = cycles // 2
        pause_at = half if pause_at is None else pause_at
        return pause_at, sorted({half, 3 * cycles // 4, pause_at})

    def stop(self) -> None:
        """Make no more cycles, and cut short those that are under way."""
        self._stop.set()

    def close(self) -> None:
        """Stop, and end every thread; one that waits for a connection to be made is left to its timeout."""
        self.stop()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm.join()
        if self.polite is not None:
            self.polite.stop()
        self.own_delay.stop()
        give_up = time.monotonic() + _END_S
        for worker in self._workers:
            worker.join(max(give_up - time.monotonic(), 0))
        self._stop.close()

    def _reach(self) -> Target:
        """The first address that takes connections."""
        for target in self._targets:
            try:
                with target.connect():
                    return target
            except CycleFailedError as error:
                reason = str(error)
        raise ConnectError(f"{self._endpoint}: {reason}")

    def _first_cycle(self) -> None:
        """It finds the address that takes connections; the run stays with that."""
        self._next = 2
        for target in self._targets:
            self._targets = [target]
            if not (reason := self._cycle(1, must_connect=True)):
                return
        raise ConnectError(f"{self._endpoint}: {reason}")

    def _cycles_up_to(self, last: float) -> None:
        begin = time.monotonic()
        count = int(max(min(self._options.concurrency or 1, last - self._next + 1), 0))
        self._workers = [
            threading.Thread(target=self._work, args=(last,), name=f"everbus-soak-{number}", daemon=True)
            for number in range(count)
        ]
        try:
            for worker in self._workers:
                worker.start()
            for worker in self._workers:
                while worker.is_alive():
                    worker.join(_PROGRESS_S)
                    self._progress("cycles", self.tally.cycles)
            self._progress("cycles", self.tally.cycles)
        finally:
            self.active_s += time.monotonic() - begin
        self.raise_error()

    def raise_error(self) -> None:
        """Raise what broke one of the threads, if anything did."""
        if self._errors:
            raise self._errors[0]

    def _broken(self, error: Exception) -> None:
        self._errors.append(error)
        self.stop()

    def _pause(self) -> None:
        self._progress("pause", self.tally.cycles)
        self._stop.wait(self._options.pause_s)

    def _work(self, last: float) -> None:
        try:
            while (number := self._take(last)) is not None:
                self._cycle(number)
        except Exception as error:  # noqa: BLE001  raised again by the thread that started the run
            self._broken(error)

    def _take(self, last: float) -> int | None:
        """The next cycle's number, when it is due; None: there is none any more."""
        with self._lock:
            number = self._next
            if number > last or time.monotonic() >= self._end:
                return None
            due = self.clock.next()
            if due >= self._end:
                return None
            self._next += 1
        return None if self._stop.wait(due - time.monotonic()) else number

    def _cycle(self, number: int, must_connect: bool = False) -> str:
        """One cycle; why it could not connect, where it must, else nothing: that is a failure as any other."""
        part = self._scenario.part(number)
        begin = time.monotonic()
        try:
            part.cycle(self._targets[0], number)
        except CutShortError:
            self.tally.cut(part.name)
        except TurnedAwayError:
            self.tally.answer(part.name, turned_away=True)
        except CycleFailedError as error:
            if must_connect and not error.connected:
                return str(error)
            if self.own_delay.excuses(error, begin, self._options.timeout_s):
                self.tally.excuse()
                return ""
            self.tally.failure(part.name, number, error)
            if self.tally.gone:
                self.stop()
            self._stop.wait(_AFTER_FAILURE_S)
        else:
            self.tally.answer(part.name)
        return ""


def soak(
    endpoint: Endpoint,
    options: SoakOptions,
    pid: int | None = None,
    progress: Progress = lambda *_: None,
) -> SoakResult:
    """Run a scenario against a server and judge it.

    Blocks until the run is over. The first KeyboardInterrupt ends the cycles early, and what was seen
    is judged; a second one, or one before any cycle has come to its end, is raised. It leaves nothing
    behind but workers that wait for a connection to be made until their timeout.

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
    options = options.resolved()
    started = datetime.now(UTC)
    run = _Run(endpoint, options, progress)
    watch = None
    try:
        run.begin()
        watch = None if pid is None else _Watch(pid, run, options)
        run.make(watch.sampler.sample if watch is not None else lambda: None)
        if watch is not None:
            try:
                progress("settling", run.tally.cycles)
                watch.settle(options)
            except KeyboardInterrupt:
                if run.interrupted:
                    raise
                run.interrupted = True
    finally:
        if watch is not None:
            watch.sampler.stop()  # before the polite clients leave, who were there at the start
        run.close()
    run.raise_error()
    return _result(endpoint, options, started, run, watch)


class _Watch:
    """Eyes on the server's process during one run."""

    def __init__(self, pid: int, run: _Run, options: SoakOptions) -> None:
        self.pid = pid
        self.settled_s = 0.0
        self._before = listeners(pid)
        interval_s = min(max((options.duration_s or 0) / _LOOKS, _LOOK_S / 5), _MOST_BETWEEN_LOOKS_S)
        self.sampler = Sampler(lambda: look(pid), lambda: run.tally.answered, run.stop, interval_s).start()

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


def _result(endpoint: Endpoint, options: SoakOptions, started: datetime, run: _Run, watch: _Watch | None) -> SoakResult:
    tally = run.tally
    failures = {kind.value: tally.failures[kind] for kind in FailureKind}
    record = watch.record() if watch else None
    polite = run.polite.record() if run.polite else None
    bound = SCENARIOS[options.scenario].growth_bound(options.concurrency or 1)
    beside = Beside(turned_away=tally.turned_away, excused=tally.excused, unjudged=_unjudged(options, run))
    judgement = judge(tally.cycles, failures, record, tally.gone, polite=polite, most_growth_bytes=bound, beside=beside)
    return SoakResult(
        verdict=judgement.verdict,
        reason=judgement.reason,
        findings=judgement.findings,
        endpoint=str(endpoint),
        options=options,
        started=started,
        duration_s=run.duration_s,
        interrupted=run.interrupted,
        cycles=tally.cycles,
        failures=failures,
        first_failure=tally.first_failure,
        turned_away=tally.turned_away,
        excused=tally.excused,
        by_scenario={
            name: PartCount(count, tally.failed_of[name]) for name in SCENARIOS if (count := tally.cycles_of[name])
        },
        rate=tally.cycles / max(run.active_s, 1e-9),
        rate_missed=run.clock.missed,
        record=record,
        polite=polite,
        client=run.totals.record(),
        new_listeners=watch.new_listeners() if watch else (),
    )


def _unjudged(options: SoakOptions, run: _Run) -> dict[str, float]:
    """Scenarios that the end cut short before one of their cycles could convict, and the seconds that it takes."""
    tally = run.tally
    needed = {name: SCENARIOS[name].held_share * options.hold_s for name in SCENARIOS if tally.cut_short[name]}
    return {
        name: needed_s
        for name, needed_s in needed.items()
        if needed_s and (run.duration_s <= needed_s or not tally.cycles_of[name])
    }
