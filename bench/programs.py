"""The programs in C: compiled into ``.venvs/bench`` when a compiler is there and they are newer than their result."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

__all__ = ["floor_server", "libmodbus_server", "load_command", "load_is_compiled"]

_SOURCES: Final = Path(__file__).resolve().parent
_BUILT: Final = _SOURCES.parent / ".venvs" / "bench"


def load_command() -> list[str]:
    """The load generator: in C, or in Python where there is no compiler."""
    program = _compiled(_SOURCES / "load.c")
    return [str(program)] if program else [sys.executable, str(_SOURCES / "slow_load.py")]


def load_is_compiled() -> bool:
    """It is the one in C, which is never what limits a server in Python."""
    return shutil.which("gcc") is not None


def floor_server() -> Path | None:
    """The floor; None without a compiler."""
    return _compiled(_SOURCES / "floor.c")


def libmodbus_server() -> Path | None:
    """A server on libmodbus; None without a compiler, or without the library and its headers."""
    if shutil.which("pkg-config") is None:
        return None
    asked = ["pkg-config", "--cflags", "--libs", "libmodbus"]
    flags = subprocess.run(asked, capture_output=True, text=True, check=False)
    if flags.returncode:
        return None
    return _compiled(_SOURCES / "peers" / "libmodbus_server.c", *flags.stdout.split())


def _compiled(source: Path, *flags: str) -> Path | None:
    if not load_is_compiled():
        return None
    program = _BUILT / source.stem
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        _BUILT.mkdir(parents=True, exist_ok=True)
        made = program.with_name(f"{program.name}-{os.getpid()}")
        subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-o", str(made), str(source), *flags], check=True)
        made.replace(program)  # at once: another process may do the same
    return program
