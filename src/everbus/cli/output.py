"""What commands print, and how they end: exit codes, JSON documents, error lines."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from enum import IntEnum

__all__ = ["CommandFailure", "ExitCode", "fail", "write_json", "write_line"]


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
    """

    def __init__(self, code: ExitCode, kind: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.kind = kind
        self.message = message
        self.hint = hint


def write_json(document: Mapping[str, object]) -> bool:
    """Print one JSON document, a line, on stdout; False if nobody reads any more, which is no error.

    Raises:
        CommandFailure: it cannot be written, as on a full disk.
    """
    if sys.stdout is None:  # closed by whoever started us
        return False
    try:
        sys.stdout.write(json.dumps(document) + "\n")
        sys.stdout.flush()
    except OSError as error:
        with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())  # what is still buffered must not fail again at exit
        if isinstance(error, BrokenPipeError):
            return False
        raise CommandFailure(ExitCode.USAGE, "output", f"cannot write the result: {error}") from error
    return True


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
        error = {"kind": failure.kind, "code": int(failure.code), "message": failure.message}
        with suppress(CommandFailure):  # it is being told on stderr
            write_json({"ok": False, "error": error})
    hint = f"\n  try: {failure.hint}" if failure.hint else ""
    write_line(f"error: {failure.message}{hint}")
    return int(failure.code)
