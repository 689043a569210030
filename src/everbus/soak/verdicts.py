"""From what a run has seen to a verdict: clean, leak or failing. Pure.

A leak is descriptors or listening sockets that grow with the cycles and are still there some time
after the last one. What a server opens once, for its first connections, does not grow with the
cycles: it is no leak. Memory leaks if it still grows in the later half of the run, in each quarter
of it: allocators take what they need once and keep it, so that growth which has ended is no leak.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "Beside",
    "Figure",
    "Judgement",
    "PoliteRecord",
    "PoliteSample",
    "ProcessRecord",
    "Sample",
    "Verdict",
    "judge",
]

_MIB: Final = 1 << 20

_LEAST_DESCRIPTORS: Final = 5
_LEAST_LISTENERS: Final = 2
"""Growth below this many is no proof, whatever the number of cycles."""

_CYCLES_PER_LEAK: Final = 500
"""Nor is growth by less than one in so many cycles: other clients come and go meanwhile."""

_LATER_SHARE: Final = 0.2
"""So much of the growth at least must come after the middle of the run, or it is a warm-up."""

_LEAST_MEMORY_BYTES: Final = 5 * _MIB
"""Growth in the later half below this is no proof: heaps fragment, and caches fill, for a long time."""

_LEAST_MEMORY_PER_CYCLE: Final = 64
"""Nor is growth by less than this, on average: an object that is kept for each cycle takes more."""

_LATE_SHARE: Final = 0.01
_LATE_TIMES: Final = 2
"""So many requests of each polite client, and one in a hundred of all, must be late to convict. A request that
could not be made because the one before was late counts too: a long stall counts for what it cost."""


_EXCUSED: Final = "excused, as this machine itself was late"


class Verdict(StrEnum):
    """What a run has shown."""

    CLEAN = "clean"
    LEAK = "leak"
    FAILING = "failing"


@dataclass(frozen=True, slots=True)
class Sample:
    """What a process and its children held at one moment.

    Args:
        at_s: seconds since the first sample.
        cycle: cycles completed by then.
        descriptors: open descriptors.
        listeners: listening sockets among them.
        memory_bytes: resident memory.
    """

    at_s: float
    cycle: int
    descriptors: int
    listeners: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Figure:
    """One quantity at the start, at its highest and at the end."""

    start: int
    peak: int
    end: int

    @property
    def growth(self) -> int:
        """The end less the start."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """A process and its children over one run.

    Args:
        pid: the process.
        descriptors, listeners, memory: its figures; memory in bytes.
        samples: a bounded choice of the samples behind them, first and last included.
        settled_s: seconds between the last cycle and the end figures.
        ended: the process ended under way; the end figures are the last that were seen.
    """

    pid: int
    descriptors: Figure
    listeners: Figure
    memory: Figure
    samples: tuple[Sample, ...]
    settled_s: float
    ended: bool = False


@dataclass(frozen=True, slots=True)
class PoliteSample:
    """What polite clients saw in one stretch of a run.

    Args:
        at_s: its end, in seconds since their start.
        requests, failed: requests made, and those among them that were not answered well.
        p50_s, worst_s: time to an answer, the median and the longest; None where there was none.
    """

    at_s: float
    requests: int
    failed: int
    p50_s: float | None
    worst_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PoliteRecord:
    """What polite clients saw in one run.

    Args:
        clients: how many they were.
        requests: requests made, connections that could not be made included.
        failures: how many failed, for every kind of failure that there was.
        first_failure: words about the first one; empty if there was none.
        excused: requests beside these that failed while this machine was late, or could not connect.
        late_s: the time that they were to wait at most; None: until their timeout.
        late: requests that took longer than that, by more than twice what this machine itself was late
            meanwhile, and those that were due while one of them waited.
        p50_s, p99_s, worst_s: time to an answer; None where there was none.
        own_worst_s: how late this machine itself was at the worst: a thread that sleeps measures it.
        samples: the same over time, a bounded number.
    """

    clients: int
    requests: int
    failures: dict[str, int]
    first_failure: str
    excused: int
    late_s: float | None
    late: int
    p50_s: float | None
    p99_s: float | None
    worst_s: float | None
    own_worst_s: float
    samples: tuple[PoliteSample, ...] = ()

    @property
    def failed(self) -> int:
        """Failed requests of every kind."""
        return sum(self.failures.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """What convicts nobody, and is told all the same.

    Args:
        turned_away: cycles among those that did not fail which the server refused, as it may.
        excused: cycles beside all these that failed while this machine was late.
        unjudged: scenarios whose cycles the end cut short before they could convict, and the seconds
            that it takes.
    """

    turned_away: int = 0
    excused: int = 0
    unjudged: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict, the reason for it in one line with the numbers, and each fact that convicts."""

    verdict: Verdict
    reason: str
    findings: tuple[str, ...] = ()


def judge(
    cycles: int,
    failures: Mapping[str, int],
    record: ProcessRecord | None,
    gone: bool = False,
    *,
    polite: PoliteRecord | None = None,
    most_growth_bytes: int | None = None,
    beside: Beside | None = None,
) -> Judgement:
    """Judge a run.

    Args:
        cycles: cycles made, failed ones included.
        failures: how many failed, by kind.
        record: the server's process; None where nobody looked at it.
        gone: the run was stopped early, because the server answered no more.
        polite: what polite clients saw; None where there were none.
        most_growth_bytes: memory that the server may hold above its start at any time; None: no bound.
        beside: what convicts nobody; None: nothing of that.
    """
    beside = beside or Beside()
    leaks: list[str] = []
    troubles: list[str] = []
    if record is not None and record.ended:
        troubles.append(_ended(cycles, record))
    elif record is not None:
        leaks += filter(None, (_leak(cycles, record), _memory_leak(record)))
    if record is not None and most_growth_bytes is not None:
        troubles += _unbounded(record, most_growth_bytes)
    troubles += _failed_cycles(cycles, failures, gone, beside.excused)
    if polite is not None:
        troubles += _impolite(polite)
    findings = (*leaks, *troubles)
    if findings:
        verdict = Verdict.LEAK if leaks else Verdict.FAILING
        return Judgement(verdict, f"{verdict}: {'; '.join(findings)}", findings)
    facts = [f"clean: none of {cycles} cycles failed", *_told(beside), _remains(record)]
    if polite is not None:
        facts.append(_politely(polite))
    return Judgement(Verdict.CLEAN, ", ".join(facts))


def _failed_cycles(cycles: int, failures: Mapping[str, int], gone: bool, excused: int) -> list[str]:
    failed = sum(failures.values())
    if not cycles:
        why = f" ({excused} {_EXCUSED})" if excused else ""
        return [f"not one cycle came to its end{why}"]
    if not failed:
        return []
    text = f"{failed} of {cycles} cycles failed ({_by_kind(failures)})"
    return [f"{text}; there was no good answer any more, so the run was stopped early" if gone else text]


def _told(beside: Beside) -> Iterator[str]:
    """What a clean run must not be silent about."""
    if beside.turned_away:
        yield f"{beside.turned_away} of them were turned away"
    if beside.excused:
        yield f"{beside.excused} more {_EXCUSED}"
    if beside.unjudged:
        needed = " and ".join(f"{name} (that takes {seconds:g} s)" for name, seconds in beside.unjudged.items())
        yield f"too short a run to judge {needed}"


def _by_kind(failures: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in failures.items() if count)


def _impolite(polite: PoliteRecord) -> list[str]:
    """How polite clients were treated badly."""
    found = []
    if polite.failed:
        found.append(f"{polite.failed} of {polite.requests} polite requests failed ({_by_kind(polite.failures)})")
    elif polite.p50_s is None:
        found.append("no polite client had an answer")
    if polite.late_s is not None and polite.late >= max(_LATE_TIMES * polite.clients, _LATE_SHARE * polite.requests, 1):
        found.append(
            f"{polite.late} polite requests took over {polite.late_s * 1000:.0f} ms or were held up by one that did, "
            f"{polite.requests} were made; the worst took {_milliseconds(polite.worst_s)}, while this machine itself "
            f"was late by {_milliseconds(polite.own_worst_s)} at most"
        )
    return found


def _politely(polite: PoliteRecord) -> str:
    answered = f"{polite.requests} polite requests answered, the slowest in {_milliseconds(polite.worst_s)}"
    return f"{answered}, {polite.excused} more excused" if polite.excused else answered


def _milliseconds(seconds: float | None) -> str:
    return "no time" if seconds is None else f"{seconds * 1000:.0f} ms"


def _unbounded(record: ProcessRecord, most_growth_bytes: int) -> list[str]:
    growth = record.memory.peak - record.memory.start
    if growth <= most_growth_bytes:
        return []
    return [
        f"memory rose to {growth / _MIB:.1f} MiB above the start, which is more than {most_growth_bytes / _MIB:g} MiB"
    ]


def _ended(cycles: int, record: ProcessRecord) -> str:
    growth = record.descriptors.growth
    held = f", with {growth} descriptors more than at the start" if growth >= _LEAST_DESCRIPTORS else ""
    return f"process {record.pid} ended after {cycles} cycles{held}"


def _leak(cycles: int, record: ProcessRecord) -> str:
    """What leaks, with the numbers; empty if nothing does."""
    if not cycles:
        return ""  # whoever else came and went, it was not by what was done here
    for name, figure, least, values in (
        ("listening sockets", record.listeners, _LEAST_LISTENERS, [s.listeners for s in record.samples]),
        ("descriptors", record.descriptors, _LEAST_DESCRIPTORS, [s.descriptors for s in record.samples]),
    ):
        if figure.growth < max(least, cycles / _CYCLES_PER_LEAK):
            continue
        middle = _in_the_middle([sample.cycle for sample in record.samples], values, figure.start)
        if figure.end - middle >= _LATER_SHARE * figure.growth:
            return (
                f"{figure.growth} {name} more than at the start after {cycles} cycles, "
                f"{figure.growth / cycles:.2f} per cycle, still there {record.settled_s:.1f} s after the last"
            )
    return ""


def _memory_leak(record: ProcessRecord) -> str:
    """How memory grows, with the numbers; empty if it does not."""
    last = max((sample.cycle for sample in record.samples), default=0)
    middle, later = _least_memory(record, 0.4 * last, 0.6 * last), _least_memory(record, 0.65 * last, 0.9 * last)
    if not last or middle is None or later is None:
        return ""
    growth, cycles = record.memory.end - middle.memory_bytes, last - middle.cycle
    steps = later.memory_bytes - middle.memory_bytes, record.memory.end - later.memory_bytes
    if growth < max(_LEAST_MEMORY_BYTES, _LEAST_MEMORY_PER_CYCLE * cycles) or min(steps) < _LATER_SHARE * growth:
        return ""
    return (
        f"memory grew by {growth / _MIB:.1f} MiB in the last {cycles} of {last} cycles, "
        f"{growth / cycles:.0f} bytes per cycle, and went on growing"
    )


def _least_memory(record: ProcessRecord, low: float, high: float) -> Sample | None:
    """The lowest of the samples of these cycles: what answers under way take passes."""
    found = (sample for sample in record.samples if low <= sample.cycle <= high)
    return min(found, key=lambda sample: sample.memory_bytes, default=None)


def _in_the_middle(cycles: list[int], values: list[int], otherwise: int) -> int:
    """The lowest value in the middle third of the cycles, where one was taken; passing peaks do not count."""
    last = max(cycles, default=0)
    return min(
        (value for cycle, value in zip(cycles, values, strict=True) if last <= 3 * cycle <= 2 * last),
        default=otherwise,
    )


def _remains(record: ProcessRecord | None) -> str:
    if record is None:
        return "seen from the client's side only"
    figure = record.descriptors
    if figure.growth <= 0:
        return f"{figure.start} descriptors at the start and {figure.end} at the end"
    return f"{figure.growth} descriptors more than at the start, which do not grow with the cycles"
