"""What commands print, and how they end: exit codes, JSON documents, error lines."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from enum import IntEnum

__all__ = ["CommandFailure", "ExitCode", "aligned", "fail", "write_json", "write_line", "write_table", "write_text"]


class ExitCode(IntEnum):
    """Exit codes of every command."""

    OK = 0
    EXCEPTION = 1
    """A device answered with a Modbus exception; a soak convicted."""
    USAGE = 2
    """A wrong command line or configuration."""
    CANNOT_CONNECT = 3
    TIMEOUT = 4
    PROTOCOL = 5
    REFUSED = 6
    """A write was refused by a limit, or not verified."""
    PARTIAL = 7
    INTERRUPTED = 130


class CommandFailure(Exception):
    """Ends a command with an exit code, one line for people and one JSON document.

    Args:
        code: the exit code.
        kind: short label for programs: ``usage``, ``cannot_connect`` ...
        message: what is wrong.
        hint: what to try.
        exception: the code of the Modbus exception that a device answered with.
    """

    def __init__(self, code: ExitCode, kind: str, message: str, hint: str = "", exception: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.kind = kind
        self.message = message
        self.hint = hint
        self.exception = exception

    def document(self) -> dict[str, object]:
        """For programs; ``exception`` and ``hint`` are there where there is one."""
        document: dict[str, object] = {"kind": self.kind, "code": int(self.code), "message": self.message}
        if self.exception is not None:
            document["exception"] = self.exception
        if self.hint:
            document["hint"] = self.hint
        return document

    def lines(self) -> str:
        """For people: what is wrong, and below it what to try."""
        return f"error: {self.message}" + (f"\n  try: {self.hint}" if self.hint else "")


def write_json(document: Mapping[str, object]) -> bool:
    """Print one JSON document, a line, on stdout; as ``write_text``."""
    import json  # noqa: PLC0415  people do without

    return write_text(json.dumps(document))


def write_table(rows: Sequence[Sequence[str]]) -> bool:
    """Print rows of one length on stdout; as ``write_text``."""
    return not rows or write_text("\n".join(aligned(rows)))


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of one length as lines, their columns below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def write_text(text: str) -> bool:
    """Print lines on stdout, at once; False if nobody reads any more, which is no error.

    Raises:
        CommandFailure: it cannot be written, as on a full disk.
    """
    if sys.stdout is None:  # closed by whoever started us
        return False
    try:
        sys.stdout.write(_told_in(sys.stdout.encoding or "utf-8", text) + "\n")
        sys.stdout.flush()
    except OSError as error:
        with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())  # what is still buffered must not fail again at exit
        if isinstance(error, BrokenPipeError):
            return False
        raise CommandFailure(ExitCode.USAGE, "output", f"cannot write the result: {error}") from error
    return True


def _told_in(encoding: str, text: str) -> str:
    """The text, with escapes for what the encoding has not: a device may say anything."""
    return text.encode(encoding, "backslashreplace").decode(encoding)


def write_line(text: str) -> None:
    """Print one line for people on stderr; nobody there to read it is no error."""
    if sys.stderr is None:
        return
    with suppress(OSError, ValueError):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def fail(failure: CommandFailure, *, as_json: bool) -> int:
    """Report a failure, on stderr and, where asked for, as JSON on stdout; return the exit code."""
    if as_json:
        with suppress(CommandFailure):  # it is being told on stderr
            write_json({"ok": False, "error": failure.document()})
    write_line(failure.lines())
    return int(failure.code)
