"""``everbus --version``: right, and quick, because it loads next to nothing."""

from __future__ import annotations

import subprocess
import sys
import time
from importlib.metadata import version

from everbus import __version__

VERSION = [sys.executable, "-m", "everbus", "--version"]
CONTROL = [sys.executable, "-c", "pass"]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    run(command)
    return time.perf_counter() - start


def test_version_is_printed_and_nothing_else() -> None:
    done = run(VERSION)
    assert (done.stdout, done.stderr) == (f"everbus {__version__}\n", "")


def test_installed_package_says_the_same() -> None:
    assert version("everbus") == __version__


def test_version_loads_neither_loop_nor_command_line() -> None:
    report = run([sys.executable, "-X", "importtime", *VERSION[1:]]).stderr
    loaded = {line.rpartition("|")[2].strip() for line in report.splitlines()}
    assert "everbus.cli.entry" in loaded
    assert loaded.isdisjoint({"asyncio", "click", "rich", "rich_click", "everbus.cli.main"})


def test_version_starts_about_as_quickly_as_python() -> None:
    """Under 100 ms is the aim; compared with a bare interpreter beside it, as machines differ."""
    pairs = [(seconds(CONTROL), seconds(VERSION)) for _ in range(5)]
    control, ours = (min(times) for times in zip(*pairs, strict=True))
    assert ours < control + 0.1
