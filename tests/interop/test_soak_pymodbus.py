"""``everbus soak`` convicts pymodbus 3.7.4, which opened a listening socket for every client that left
(its issue 2462), and finds our own server clean with the same 400 cycles.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import venv
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.soak.servers import wait_until_it_listens

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.interop, pytest.mark.slow, pytest.mark.timeout(600)]

PYMODBUS = "pymodbus==3.7.4"
ENVIRONMENT = Path(__file__).resolve().parents[2] / ".venvs" / "pymodbus-3.7.4"
CYCLES = 400
SERVER = """
import asyncio, sys
from pymodbus.datastore import ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext
from pymodbus.server import StartAsyncTcpServer

device = ModbusSlaveContext(hr=ModbusSequentialDataBlock(0, [42] * 100))
context = ModbusServerContext(slaves=device, single=True)
asyncio.run(StartAsyncTcpServer(context, address=("127.0.0.1", int(sys.argv[1]))))
"""


@pytest.fixture(scope="module")
def pymodbus_python() -> Path:
    """The interpreter of an environment with that version, made once and kept."""
    folder = "Scripts" if sys.platform == "win32" else "bin"
    path = ENVIRONMENT / folder / "python"
    python = str(path)
    probe = [python, "-c", "import pymodbus, sys; sys.exit(pymodbus.__version__ != '3.7.4')"]
    if not path.exists() or subprocess.run(probe, check=False, capture_output=True).returncode:
        venv.create(ENVIRONMENT, clear=True, with_pip=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PYMODBUS]
        subprocess.run(install, check=True, timeout=300)
    return path


@contextmanager
def pymodbus_server(python: Path) -> Iterator[tuple[int, int]]:
    """Its asyncio TCP server as a process; its port and pid."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with subprocess.Popen([python, "-c", SERVER, str(port)], stderr=subprocess.DEVNULL) as process:
        try:
            wait_until_it_listens(process.pid, port)
            yield port, process.pid
        finally:
            process.kill()


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
    return done.returncode, json.loads(done.stdout)


def test_pymodbus_374_is_convicted(pymodbus_python: Path) -> None:
    with pymodbus_server(pymodbus_python) as (port, pid):
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
