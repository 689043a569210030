"""Who takes part, and how each is started on a port of 127.0.0.1."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.cases import IDLE_CONNECTIONS
from bench.programs import floor_server, libmodbus_server
from tools.environments import PYMODBUS, PYMODBUSTCP, TMODBUS, environment, newer_python

__all__ = [
    "FLOOR",
    "OWN",
    "OWN_UVLOOP",
    "RAW",
    "TMODBUS_BARE",
    "Contender",
    "Server",
    "contenders",
    "free_port",
    "own",
    "running",
]

OWN: Final = "everbus"
OWN_UVLOOP: Final = "everbus, uvloop"
FLOOR: Final = "C floor"
LIBMODBUS: Final = "libmodbus"
RAW: Final = "raw socket"
TMODBUS_BARE: Final = f"{TMODBUS}, bare transport"

_PEERS: Final = Path(__file__).resolve().parent / "peers"
_START_S: Final = 20.0
_STOP_S: Final = 5.0
_LOOK_S: Final = 0.002
_READ: Final = bytes.fromhex("0001 0000 0006 01 03 0000 0001")
_CROWD: Final = IDLE_CONNECTIONS + 100
_PYTHON: Final = "import platform; print('Python', platform.python_version())"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One server.

    Args:
        name: its key in the results, with its version where it is not ours.
        command: starts it, but for the port, which comes last.
        import_command: only loads its code and ends; empty for what is not Python.
        version_command: prints what it is made of; empty where there is nothing to say.
        crowd: what it is told on top to take 10,000 connections.
        port_prefix: what stands before the port.
    """

    name: str
    command: tuple[str, ...]
    import_command: tuple[str, ...] = ()
    version_command: tuple[str, ...] = ()
    crowd: tuple[str, ...] = ()
    port_prefix: str = ""

    def version(self) -> str:
        """What it is made of, in a few words; empty if its name says it all."""
        if not self.version_command:
            return ""
        return subprocess.run(self.version_command, check=True, capture_output=True, text=True).stdout.strip()


@dataclass(frozen=True, slots=True)
class Server:
    """A contender under way."""

    name: str
    port: int
    pid: int

    def cpu_s(self) -> float:
        """Processor time used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_bytes(self) -> int:
        """Resident memory."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * resource.getpagesize()


def contenders() -> tuple[list[Contender], dict[str, str]]:
    """Those that can take part here, ours first, and why the others cannot."""
    found = [own(OWN, "asyncio"), own(OWN_UVLOOP, "uvloop")]
    missing: dict[str, str] = {}
    for name, program, why in (
        (FLOOR, floor_server(), "there is no gcc"),
        (LIBMODBUS, libmodbus_server(), "there is no gcc, pkg-config or libmodbus with its headers"),
    ):
        if program is None:
            missing[name] = why
        else:
            version = ("pkg-config", "--modversion", "libmodbus") if name == LIBMODBUS else ()
            found.append(Contender(name=name, command=(str(program),), version_command=version))
    for requirement, script, loads, oldest in (
        (PYMODBUS, "pymodbus_server.py", "import pymodbus.server, pymodbus.datastore", (3, 11)),
        (PYMODBUSTCP, "pymodbustcp_server.py", "import pyModbusTCP.server", (3, 11)),
        (TMODBUS, "tmodbus_server.py", "import tmodbus.server", (3, 12)),
    ):
        interpreter = newer_python(oldest)
        if interpreter is None:
            missing[requirement] = f"it needs Python {oldest[0]}.{oldest[1]}"
            continue
        python = str(environment(requirement, interpreter))
        found.append(
            Contender(
                name=requirement,
                command=(python, str(_PEERS / script)),
                import_command=(python, "-c", loads),
                version_command=(python, "-c", _PYTHON),
            )
        )
    return found, missing


def own(name: str, loop: str) -> Contender:
    """Our own, as its command line serves it with its default settings."""
    return Contender(
        name=name,
        command=(sys.executable, "-m", "everbus", "serve", "--loop", loop, "--listen"),
        import_command=(sys.executable, "-c", "from everbus import Server, Bank"),
        version_command=(
            sys.executable,
            "-c",
            f"import {loop}; {_PYTHON}; print({loop}.__dict__.get('__version__', ''))",
        ),
        crowd=("--max-connections", str(_CROWD), "--max-connections-per-peer", str(_CROWD)),
        port_prefix="tcp://127.0.0.1:",
    )


def free_port() -> int:
    """A port that nobody has right now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def running(contender: Contender, cpu: int | None = None, crowd: bool = False) -> Iterator[Server]:
    """A contender as a process that answers.

    Args:
        contender: which.
        cpu: the processor that it is to run on.
        crowd: it is to take 10,000 connections.

    Raises:
        RuntimeError: it does not answer.
    """
    port = free_port()
    command = [*contender.command, f"{contender.port_prefix}{port}", *(contender.crowd if crowd else ())]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        if cpu is not None:
            os.sched_setaffinity(process.pid, {cpu})
        _wait_until_it_answers(contender.name, process, port)
        yield Server(contender.name, port, process.pid)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:  # tmodbus waits for its clients
            process.kill()
            process.wait()


def _wait_until_it_answers(name: str, process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), 1.0) as sock:
                sock.settimeout(1.0)
                sock.sendall(_READ)
                if sock.recv(64):
                    return
        except OSError:
            pass
        if time.monotonic() > deadline or process.poll() is not None:
            raise RuntimeError(f"{name} does not answer on port {port}")
        time.sleep(_LOOK_S)
