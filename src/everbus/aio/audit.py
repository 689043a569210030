"""The audit trail in a file of JSON Lines, written by a thread of its own.

Inside the loop a record is put in a bounded queue, and nothing else happens. The thread writes what has
gathered, in whole lines. A disk that is full or a file that cannot be opened is tried again until it
can be; what finds no room in the queue meanwhile is counted, and the count goes into the trail. A
file that was moved away or deleted is noticed before the next lines are written, so logrotate needs to
tell nobody.

Denials stand in a file of their own, ``NAME.denied``: whoever may do nothing could otherwise rotate the
records of writes away.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from everbus.errors import ConfigurationError
from everbus.observe import error_text
from everbus.service.audit import AuditRecord

__all__ = ["AuditFile", "AuditOptions", "AuditStatistics"]

_GATHER_S: Final = 0.1
"""Records that come within this are written together: the thread seldom takes the interpreter from the loop."""

_MODE: Final = 0o640
_logger: Final = logging.getLogger("everbus.audit")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditOptions:
    """How an audit trail is kept. Immutable; validated when built.

    Args:
        max_bytes: a file that would grow past this is rotated: NAME becomes NAME.1, that NAME.2 ...
        keep: how many rotated files are kept of each, 0 and up.
        max_waiting: records that may wait to be written; more are dropped, and counted. Denials fill
            half of it at most: a flood of them does not push out writes.
        retry_s: how long after a failure it is tried again.

    Raises:
        ConfigurationError: a number cannot work.
    """

    max_bytes: int = 10 * 1024 * 1024
    keep: int = 10
    max_waiting: int = 10_000
    retry_s: float = 1.0

    def __post_init__(self) -> None:
        for name, least in (("max_bytes", 1), ("keep", 0), ("max_waiting", 1)):
            if getattr(self, name) < least:
                raise ConfigurationError(f"{name} is at least {least}, not {getattr(self, name)}")
        if not 0 < self.retry_s <= threading.TIMEOUT_MAX:
            raise ConfigurationError(f"retry_s is a number above 0, not {self.retry_s}")


@dataclass(frozen=True, slots=True)
class AuditStatistics:
    """What an audit trail has done.

    Args:
        written: records that were written.
        waiting: records that wait to be.
        dropped: records that are lost: the queue was full, or it was closed.
        failures: how often opening, writing or rotating failed.
        rotations: how often a file was full.
    """

    written: int
    waiting: int
    dropped: int
    failures: int
    rotations: int


class AuditFile:
    """An audit trail in a file; a context manager that writes what is left at the end.

    Args:
        path: the file; opened at once, and appended to. What is no regular file, as a pipe, gets the denials too.
        options: its bounds.

    Raises:
        ConfigurationError: the file cannot be opened.
    """

    def __init__(self, path: str | Path, options: AuditOptions | None = None) -> None:
        self._options = options or AuditOptions()
        writes = _RotatingFile(Path(path), self._options)
        try:
            writes.open()
        except OSError as error:
            raise ConfigurationError(f"cannot write the audit trail {path}: {error.strerror or error}") from error
        denials = _RotatingFile(Path(f"{path}.denied"), self._options) if writes.regular else writes
        self._files = (denials, writes)
        """By whether what they tell of was allowed."""
        self._queue: deque[tuple[float, AuditRecord]] = deque()
        self._wake = threading.Event()
        self._ending = threading.Event()
        self._written = 0
        self._dropped = [0, 0]
        self._dropped_told = [0, 0]
        self._failures = 0
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="everbus-audit", daemon=True)
        self._thread.start()

    def record(self, record: AuditRecord) -> None:
        """Keep a record, or count it as dropped where too many wait, or it is closed. Never blocks."""
        allowed = record.decision.allowed
        room = self._options.max_waiting if allowed else self._options.max_waiting // 2
        if len(self._queue) >= room or self._ending.is_set():
            self._dropped[allowed] += 1
            return
        self._queue.append((time.time(), record))
        if not self._wake.is_set():
            self._wake.set()

    def statistics(self) -> AuditStatistics:
        """A snapshot of what it has done. Any thread may ask."""
        rotations = sum(file.rotations for file in {*self._files})
        return AuditStatistics(self._written, len(self._queue), sum(self._dropped), self._failures, rotations)

    def close(self, timeout_s: float = 5.0) -> None:
        """Write what is left and close the file, within this time; what is not written then is lost. Idempotent.

        It waits for the thread: call it when the event loop has ended, or in a thread.
        """
        self._ending.set()
        self._wake.set()
        self._thread.join(timeout_s)
        if self._queue:
            _logger.error("the audit trail ends without its last %d records", len(self._queue))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # In the thread

    def _run(self) -> None:
        while not self._ending.is_set():
            self._wake.wait()
            self._ending.wait(_GATHER_S)
            self._wake.clear()
            if not self._write_all():
                self._ending.wait(self._options.retry_s)
                self._wake.set()
        self._write_all()
        for file in self._files:
            file.close()

    def _write_all(self) -> bool:
        """Write what waits; False: not all of it, as something is wrong with the file."""
        try:
            for file in self._files:
                file.stale = True
            for allowed, file in enumerate(self._files):
                dropped = self._dropped[allowed]
                if dropped > self._dropped_told[allowed]:
                    file.write(_line(time.time(), {"dropped": dropped - self._dropped_told[allowed]}))
                    self._dropped_told[allowed] = dropped
            while self._queue:
                at, record = self._queue[0]
                self._files[record.decision.allowed].write(_record_line(at, record))
                self._written += 1
                self._queue.popleft()
        except OSError as error:
            self._failures += 1
            if not self._failing:
                _logger.error("the audit trail cannot be written, it is tried again: %s", error)
            self._failing = True
            return False
        if self._failing:
            _logger.warning("the audit trail is written again; %d records were dropped so far", sum(self._dropped))
        self._failing = False
        return True


def _record_line(at: float, record: AuditRecord) -> bytes:
    try:
        return _line(at, record.document())
    except Exception as error:  # noqa: BLE001  a custom request's encode: one record is lost, not all that follow
        return _line(at, {"unwritable": error_text(error)})


def _line(at: float, document: Mapping[str, object]) -> bytes:
    when = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": when, **document}).encode() + b"\n"


class _RotatingFile:
    """A file that is appended to in whole lines, up to a size; then a new one is begun."""

    def __init__(self, path: Path, options: AuditOptions) -> None:
        self._path = path
        self._options = options
        self._descriptor: int | None = None
        self._size = 0
        self.regular = False
        self.rotations = 0
        self.stale = True
        """It may be another file of that name by now: look before it is written."""

    def open(self) -> None:
        # A pipe that nobody reads says so, instead of holding the start up.
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, _MODE)
        status = os.fstat(self._descriptor)
        self._size = status.st_size
        self.regular = stat.S_ISREG(status.st_mode)

    def close(self) -> None:
        if self._descriptor is not None:
            with suppress(OSError):  # the disk has already said what is wrong
                os.close(self._descriptor)
        self._descriptor = None

    def _renew(self) -> None:
        """Open the file again if it is not the one of that name any more."""
        self.stale = False
        if self._descriptor is not None:
            with suppress(FileNotFoundError):
                if os.path.samestat(self._path.stat(), os.fstat(self._descriptor)):
                    return
            self.close()
        self.open()

    def write(self, line: bytes) -> None:
        """Append one line, all of it or nothing."""
        if self.stale or self._descriptor is None:
            self._renew()
        if self.regular and self._size and self._size + len(line) > self._options.max_bytes:
            self._rotate()
        assert self._descriptor is not None
        written = os.write(self._descriptor, line)
        if written < len(line):  # the disk is full: half a line is worse than none
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._size += written

    def _rotate(self) -> None:
        names = [self._path, *(Path(f"{self._path}.{number}") for number in range(1, self._options.keep + 1))]
        self.close()
        with suppress(FileNotFoundError):
            names[-1].unlink()
        for older, newer in zip(reversed(names), reversed(names[:-1]), strict=False):
            with suppress(FileNotFoundError):
                newer.replace(older)
        self.rotations += 1
        self.open()
