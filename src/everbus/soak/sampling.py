"""Looks at a process and its children while a run goes on: descriptors, listening sockets, memory."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from everbus.resources import descriptors, listening_addresses, memory_bytes, process_tree
from everbus.soak.verdicts import Figure, ProcessRecord, Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Holding", "Sampler", "Series", "listeners", "look"]

_QUANTITIES: Final = ("descriptors", "listeners", "memory_bytes")

_COST_SHARE: Final = 0.25
"""Looking takes at most this share of the time, however slow it is on a big machine."""


@dataclass(frozen=True, slots=True)
class Holding:
    """What a process and its children hold."""

    descriptors: int
    listeners: int
    memory_bytes: int


def look(pid: int) -> Holding:
    """Look at a process and its children; never at the process that looks, which may be one of them.

    Raises:
        ProcessLookupError: there is no such process, or it has ended.
        PermissionError: it belongs to someone else.
    """
    open_now, memory = descriptors(pid), memory_bytes(pid)
    for child in _children(pid):
        with suppress(ProcessLookupError, PermissionError):
            child_open, child_memory = descriptors(child), memory_bytes(child)
            open_now += child_open
            memory += child_memory
    return Holding(open_now.total, open_now.listening, memory)


def listeners(pid: int) -> Counter[str]:
    """The listening addresses of a process and its children, and how many sockets each has.

    Raises:
        As ``look``.
    """
    found = Counter(listening_addresses(pid))
    for child in _children(pid):
        with suppress(ProcessLookupError, PermissionError):
            found.update(listening_addresses(child))
    return found


def _children(pid: int) -> Iterator[int]:
    return (member for member in process_tree(pid)[1:] if member != os.getpid())


class Series:
    """A bounded record of samples: the more come, the wider apart are those that it keeps.

    The first, the last and the peaks are exact.

    Args:
        keep: samples kept at most, 2 or more.
    """

    def __init__(self, keep: int = 400) -> None:
        self._keep = keep
        self._kept: list[Sample] = []
        self._stride = 1
        self._seen = 0
        self._last: Sample | None = None
        self._figures: dict[str, Figure] = {}

    def add(self, sample: Sample) -> None:
        """Take in the next sample."""
        if self._seen % self._stride == 0:
            self._kept.append(sample)
        if len(self._kept) >= self._keep:
            del self._kept[1::2]
            self._stride *= 2
        self._seen += 1
        self._last = sample
        for name in _QUANTITIES:
            value: int = getattr(sample, name)
            known = self._figures.get(name, Figure(value, value, value))
            self._figures[name] = Figure(known.start, max(known.peak, value), value)

    @property
    def samples(self) -> tuple[Sample, ...]:
        """Those that were kept, in order, the last one included."""
        if self._last is None or self._kept[-1] is self._last:
            return tuple(self._kept)
        return (*self._kept, self._last)

    def record(self, pid: int, settled_s: float, ended: bool) -> ProcessRecord:
        """The samples and what they say; there must be one at least."""
        descriptors, listeners, memory = (self._figures[name] for name in _QUANTITIES)
        return ProcessRecord(pid, descriptors, listeners, memory, self.samples, settled_s, ended)


class Sampler:
    """Looks at regular intervals, in a thread of its own, from ``start`` to ``stop``.

    Args:
        look: what to call; ProcessLookupError from it ends the sampling.
        progress: the number of cycles completed so far.
        on_end: what to call, once, when the process has ended.
        interval_s: time between two looks, longer where looking takes long.
    """

    def __init__(
        self,
        look: Callable[[], Holding],
        progress: Callable[[], int],
        on_end: Callable[[], None] = lambda: None,
        interval_s: float = 0.02,
    ) -> None:
        self.series: Series = Series()
        self.ended: bool = False
        self._on_end = on_end
        self._look = look
        self._progress = progress
        self._interval_s = interval_s
        self._begin = time.monotonic()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="everbus-soak-sampler", daemon=True)

    def start(self) -> Self:
        """Take the first sample at once, then go on.

        Raises:
            As ``look``.
        """
        self._take()
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop looking; returns when the thread has ended."""
        self._stopping.set()
        self._thread.join()

    def sample(self) -> Sample | None:
        """Look now; None if the process has ended."""
        try:
            return self._take()
        except ProcessLookupError:
            if not self.ended:
                self.ended = True
                self._on_end()
            return None

    def _take(self) -> Sample:
        with self._lock:
            held = self._look()
            at_s = time.monotonic() - self._begin
            sample = Sample(at_s, self._progress(), held.descriptors, held.listeners, held.memory_bytes)
            self.series.add(sample)
            return sample

    def _run(self) -> None:
        wait_s = self._interval_s
        while not self._stopping.wait(wait_s):
            begin = time.monotonic()
            with suppress(OSError):  # this process may be short of descriptors itself for a while
                if self.sample() is None:
                    return
            wait_s = max(self._interval_s, (time.monotonic() - begin) / _COST_SHARE)
