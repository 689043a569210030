"""From what a run has seen to a verdict: clean, leak or failing. Pure.

A leak is descriptors or listening sockets that grow with the cycles and are still there some time
after the last one. What a server opens once, for its first connections, does not grow with the
cycles: it is no leak. Memory is shown and convicts nobody: allocators keep what they had.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Figure", "Judgement", "ProcessRecord", "Sample", "Verdict", "judge"]

_LEAST_DESCRIPTORS: Final = 5
_LEAST_LISTENERS: Final = 2
"""Growth below this many is no proof, whatever the number of cycles."""

_CYCLES_PER_LEAK: Final = 500
"""Nor is growth by less than one in so many cycles: other clients come and go meanwhile."""

_LATER_SHARE: Final = 0.2
"""So much of the growth at least must come after the middle of the run, or it is a warm-up."""


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
class Judgement:
    """A verdict and the reason for it, one line with the numbers."""

    verdict: Verdict
    reason: str


def judge(cycles: int, failures: Mapping[str, int], record: ProcessRecord | None, gone: bool = False) -> Judgement:
    """Judge a run.

    Args:
        cycles: cycles made, failed ones included.
        failures: how many failed, by kind.
        record: the server's process; None where nobody looked at it.
        gone: the run was stopped early, because the server answered no more.
    """
    failed = sum(failures.values())
    trouble = _trouble(cycles, failures, failed, gone)
    if record is not None and record.ended:
        return Judgement(Verdict.FAILING, _ended(cycles, record))
    leak = _leak(cycles, record) if record is not None else ""
    if leak:
        return Judgement(Verdict.LEAK, f"leak: {leak}" + (f"; {trouble}" if trouble else ""))
    if trouble:
        return Judgement(Verdict.FAILING, f"failing: {trouble}")
    return Judgement(Verdict.CLEAN, f"clean: all {cycles} cycles answered, {_remains(record)}")


def _trouble(cycles: int, failures: Mapping[str, int], failed: int, gone: bool) -> str:
    if not failed:
        return ""
    kinds = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in failures.items() if count)
    text = f"{failed} of {cycles} cycles failed ({kinds})"
    return f"{text}; there was no good answer any more, so the run was stopped early" if gone else text


def _ended(cycles: int, record: ProcessRecord) -> str:
    growth = record.descriptors.growth
    held = f", with {growth} descriptors more than at the start" if growth >= _LEAST_DESCRIPTORS else ""
    return f"failing: process {record.pid} ended after {cycles} cycles{held}"


def _leak(cycles: int, record: ProcessRecord) -> str:
    """What leaks, with the numbers; empty if nothing does."""
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
