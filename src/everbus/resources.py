"""What a process holds: its descriptors by kind, its listening addresses, its memory, its limits.

Read from ``/proc`` where that exists, from psutil elsewhere (the extra ``cli`` brings it). Works for
any process that the caller may look at. Whatever ends meanwhile is dealt with: a descriptor that
closes while they are listed is skipped, a process that is gone raises ``ProcessLookupError``.

Nothing here changes the process but ``raise_descriptor_limit``, which only the command line and
the daemon call.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Final

from everbus.errors import ConfigurationError
from everbus.observe import Event, EventKind
from everbus.processes import Descriptors, is_this_process, this_system

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "DEFAULT_DESCRIPTOR_LIMIT",
    "DescriptorAlarm",
    "DescriptorWatcher",
    "Descriptors",
    "descriptor_count",
    "descriptor_limit",
    "descriptors",
    "listening_addresses",
    "memory_bytes",
    "process_tree",
    "raise_descriptor_limit",
]

DEFAULT_DESCRIPTOR_LIMIT: Final = 2048
"""Assumed where a system has no RLIMIT_NOFILE (Windows): room for a server's default limits."""

_UNLIMITED: Final = 1 << 20
"""Stands for RLIM_INFINITY: Linux lets no process hold more by default (fs.nr_open)."""


def descriptor_count(pid: int | None = None) -> int:
    """How many descriptors a process has open; the cheapest of the figures.

    With every descriptor of this process in use there is none left to look with: then the answer
    is the limit itself.

    Args:
        pid: the process; None: this one.

    Raises:
        ProcessLookupError: there is no such process, or it has ended.
        PermissionError: it belongs to someone else.
        ConfigurationError: the system has no /proc, and psutil is not installed.
    """
    try:
        return this_system().count(pid)
    except OSError as error:
        if error.errno == errno.EMFILE and is_this_process(pid):
            return descriptor_limit()
        raise


def descriptors(pid: int | None = None) -> Descriptors:
    """The open descriptors of a process, by kind.

    Args:
        pid: the process; None: this one.

    Raises:
        As ``descriptor_count``; OSError too when this process has no descriptor left to look with.
    """
    return this_system().kinds(pid)


def listening_addresses(pid: int | None = None) -> tuple[str, ...]:
    """Where a process accepts connections, sorted; one entry for each socket, so they may repeat.

    TCP as ``127.0.0.1:5020`` and ``[::1]:5020``, Unix sockets as their paths (Linux's abstract
    ones with a leading ``@``).

    Args:
        pid: the process; None: this one.

    Raises:
        As ``descriptors``.
    """
    return tuple(sorted(this_system().listening(pid)))


def memory_bytes(pid: int | None = None) -> int:
    """The resident memory of a process (RSS).

    Raises:
        As ``descriptors``.
    """
    return this_system().memory(pid)


def process_tree(pid: int) -> tuple[int, ...]:
    """A process and all its descendants, itself first; those that end meanwhile may be missing.

    Raises:
        As ``descriptors``.
    """
    return tuple(this_system().tree(pid))


def descriptor_limit() -> int:
    """How many descriptors this process may open: the soft RLIMIT_NOFILE.

    ``DEFAULT_DESCRIPTOR_LIMIT`` where there is no such limit, 1,048,576 for an infinite one.
    """
    try:
        resource = import_module("resource")
    except ImportError:
        return DEFAULT_DESCRIPTOR_LIMIT
    soft: int = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _UNLIMITED if soft == resource.RLIM_INFINITY else soft


def raise_descriptor_limit(wanted: int) -> int:
    """Raise the soft limit towards the hard one, as far as ``wanted`` needs; never lower it.

    For the command line and the daemon: a library leaves the limits of its process alone.

    Args:
        wanted: descriptors that the process will need.

    Returns:
        The soft limit in force, which is less than ``wanted`` where the system allows no more.
    """
    soft = descriptor_limit()
    try:
        resource = import_module("resource")
    except ImportError:
        return soft
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if target > soft:
        with suppress(ValueError, OSError):  # macOS allows less than its hard limit says
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
    return descriptor_limit()


@dataclass(frozen=True, slots=True)
class DescriptorAlarm:
    """Descriptors in use have crossed a threshold.

    Args:
        threshold: the share of the limit, 0..1.
        high: True: upwards, usage is at the threshold or above; False: it is clearly below again.
        used: descriptors in use.
        limit: descriptors allowed.
    """

    threshold: float
    high: bool
    used: int
    limit: int

    @property
    def event(self) -> Event:
        """The same, for an observer; its reason is the threshold, as in ``70%``."""
        kind = EventKind.DESCRIPTORS_HIGH if self.high else EventKind.DESCRIPTORS_NORMAL
        where = "at or above" if self.high else "back below"
        detail = f"{self.used} of {self.limit} descriptors in use, {where} {self.threshold:.0%}"
        return Event(kind, reason=f"{self.threshold:.0%}", detail=detail)


class DescriptorWatcher:
    """Tells when descriptors run short, once each way. Pure: it is given the figure.

    Args:
        limit: descriptors allowed, 1 or more.
        thresholds: shares of the limit, ascending, above 0 and up to 1.
        hysteresis: how far below a threshold usage must fall before it counts as normal again, as
            a share of the limit: usage that hovers about a threshold raises one alarm, not many.

    Raises:
        ConfigurationError: a value is outside its range.
    """

    __slots__ = ("_high", "_hysteresis", "_limit", "_thresholds")

    def __init__(self, limit: int, thresholds: Sequence[float] = (0.7, 0.9), hysteresis: float = 0.05) -> None:
        if limit < 1:
            raise ConfigurationError(f"a descriptor limit is 1 or more, not {limit}")
        ascending = bool(thresholds) and list(thresholds) == sorted(set(thresholds))
        if not ascending or thresholds[0] <= 0 or thresholds[-1] > 1:
            raise ConfigurationError(f"thresholds ascend, above 0 and up to 1; {tuple(thresholds)} do not")
        if not 0 <= hysteresis < thresholds[0]:
            raise ConfigurationError(
                f"hysteresis is 0 or more and under the lowest threshold, {thresholds[0]}; not {hysteresis}"
            )
        self._limit = limit
        self._thresholds = tuple(thresholds)
        self._hysteresis = hysteresis
        self._high = 0

    def check(self, used: int) -> list[DescriptorAlarm]:
        """Take in how many are in use; return what was crossed since the last call, in order."""
        share = used / self._limit
        alarms = []
        while self._high < len(self._thresholds) and share >= self._thresholds[self._high]:
            alarms.append(DescriptorAlarm(self._thresholds[self._high], True, used, self._limit))
            self._high += 1
        while self._high and share < self._thresholds[self._high - 1] - self._hysteresis:
            self._high -= 1
            alarms.append(DescriptorAlarm(self._thresholds[self._high], False, used, self._limit))
        return alarms
