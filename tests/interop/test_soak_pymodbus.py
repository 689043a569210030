"""``everbus soak`` convicts pymodbus 3.7.4, which opened a listening socket for every client that left
(its issue 2462), and finds our own server clean with the same 400 cycles.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.interop.support import PEERS, python_with, serving
from tools.environments import PYMODBUS_LEAKY

pytestmark = [pytest.mark.interop, pytest.mark.timeout(600)]

CYCLES = 400


@pytest.fixture(scope="module")
def python() -> Path:
    return python_with(PYMODBUS_LEAKY)


def soak(*arguments: str) -> tuple[int, dict[str, Any]]:
    """Run it as its user does; exit code and JSON document."""
    cycles = ["--cycles", str(CYCLES), "--pause-at", str(CYCLES // 2), "--pause", "1.5"]
    done = subprocess.run(
        [sys.executable, "-m", "everbus", "soak", *arguments, *cycles, "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_pymodbus_374_is_convicted(python: Path) -> None:
    with serving(python, PEERS / "pymodbus_leaky_server.py") as (port, pid):
        code, found = soak(f"tcp://127.0.0.1:{port}", "--pid", str(pid))
    assert code == 1
    assert (found["ok"], found["verdict"], found["cycles"], found["failed"]) == (False, "leak", CYCLES, 0)
    for figure in (found["listeners"], found["descriptors"]):
        assert figure["end"] - figure["start"] == pytest.approx(CYCLES, abs=5)
    assert f"{found['listeners']['end'] - found['listeners']['start']} listening sockets more" in found["reason"]
    assert all(address.startswith("0.0.0.0:") for address in found["new_listeners"])


def test_our_own_server_is_clean() -> None:
    code, found = soak()
    assert code == 0
    assert (found["ok"], found["verdict"], found["cycles"], found["failed"]) == (True, "clean", CYCLES, 0)
    assert found["descriptors"]["end"] == found["descriptors"]["start"]
    assert found["listeners"] == {"start": 1, "peak": 1, "end": 1}
