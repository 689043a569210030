"""A quick comparison of everbus with pymodbus, in one run, interleaved: ``make compare``.

Each server runs in a process of its own; one load generator asks both in turn, ROUNDS times, and
checks every answer. It is compiled with gcc where there is one; else a slower one in Python is
used, and the output says so. Figures are medians; what counts is their ratio. pymodbus is
installed in an environment of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import select
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

from everbus import __version__

PEER = "pymodbus==3.16.1"
ROUNDS = 5
ROOT = Path(__file__).resolve().parent.parent
REGISTERS = 10

PEER_SERVER = """
import asyncio, sys
from pymodbus.datastore import ModbusDeviceContext, ModbusSequentialDataBlock, ModbusServerContext
from pymodbus.server import StartAsyncTcpServer
block = ModbusSequentialDataBlock(1, [0] * 1000)
context = ModbusServerContext(devices=ModbusDeviceContext(hr=block), single=True)
asyncio.run(StartAsyncTcpServer(context, address=("127.0.0.1", int(sys.argv[1]))))
"""


def environment(requirement: str) -> Path:
    """The Python of an environment that has one requirement installed; made once."""
    folder = ROOT / ".venvs" / requirement.replace("==", "-")
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement]
        subprocess.run(install, check=True)
    return python


def free_port() -> int:
    """A port that nobody has right now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def server(arguments: list[str], port: int) -> Iterator[int]:
    """A server process that answers on a port; yields its process number."""
    process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 0.2).close()
                break
            except OSError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise RuntimeError(f"{arguments[:4]} does not answer on port {port}") from None
                time.sleep(0.05)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def compiled_load() -> Path | None:
    """The load generator in C, compiled when it is newer than its program; None without gcc."""
    if shutil.which("gcc") is None:
        return None
    source = ROOT / "bench" / "load.c"
    program = ROOT / ".venvs" / "load"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        program.parent.mkdir(exist_ok=True)
        subprocess.run(["gcc", "-O2", "-Wall", "-o", str(program), str(source)], check=True)
    return program


def requests_per_second(load: Path | None, port: int, connections: int, seconds: float) -> float:
    """Requests answered a second, with one in flight on each connection."""
    if load is None:
        return python_load(port, connections, seconds)
    command = [str(load), str(port), str(connections), str(REGISTERS), str(seconds)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def python_load(port: int, connections: int, seconds: float) -> float:
    """Ask with one request in flight on each connection; check each answer; return the rate."""
    poll = select.epoll()
    sockets: dict[int, socket.socket] = {}
    request = struct.pack(">HHHBBHH", 7, 0, 6, 1, 3, 0, REGISTERS)
    expected = struct.pack(">HHHBBB", 7, 0, 3 + 2 * REGISTERS, 1, 3, 2 * REGISTERS) + bytes(2 * REGISTERS)
    for _ in range(connections):
        sock = socket.create_connection(("127.0.0.1", port), 5)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sockets[sock.fileno()] = sock
        poll.register(sock, select.EPOLLIN)
        sock.send(request)
    count = 0
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        for number, _ in poll.poll(2):
            sock = sockets[number]
            answer = sock.recv(4096)
            if answer != expected:
                raise RuntimeError(f"a wrong answer: {answer.hex()}")
            count += 1
            sock.send(request)
    elapsed = time.perf_counter() - start
    for sock in sockets.values():
        sock.close()
    poll.close()
    return count / elapsed


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def pipelined_answers(port: int, requests: int = 16) -> int:
    """How many of so many requests in one segment are answered, with their ids, within a second."""
    with socket.create_connection(("127.0.0.1", port), 5) as sock:
        sock.settimeout(1.0)
        sock.sendall(b"".join(struct.pack(">HHHBBHH", n, 0, 6, 1, 3, 0, 1) for n in range(requests)))
        size = 11
        received = b""
        with contextlib.suppress(TimeoutError):
            while len(received) < requests * size:
                data = sock.recv(4096)
                if not data:
                    break
                received += data
    ids = [int.from_bytes(received[at : at + 2], "big") for at in range(0, len(received) // size * size, size)]
    return len(set(ids) & set(range(requests)))


def measure(seconds: float, connections: int) -> dict[str, object]:
    """Run both, interleaved; return the figures."""
    peer_python = environment(PEER)
    load = compiled_load()
    ports = {"everbus": free_port(), PEER: free_port()}
    own = [sys.executable, "-m", "everbus", "serve", "--listen", f"tcp://127.0.0.1:{ports['everbus']}"]
    peer = [str(peer_python), "-c", PEER_SERVER, str(ports[PEER])]
    rates: dict[str, list[float]] = {name: [] for name in ports}
    costs: dict[str, list[float]] = {name: [] for name in ports}
    with server(own, ports["everbus"]) as own_pid, server(peer, ports[PEER]) as peer_pid:
        pids = {"everbus": own_pid, PEER: peer_pid}
        for _ in range(ROUNDS):
            for name, port in ports.items():
                before = cpu_seconds(pids[name])
                rate = requests_per_second(load, port, connections, seconds)
                rates[name].append(rate)
                costs[name].append((cpu_seconds(pids[name]) - before) / (rate * seconds) * 1e6)
        answered = {name: pipelined_answers(port) for name, port in ports.items()}
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}",
        "versions": f"everbus {__version__}, {PEER}",
        "connections": connections,
        "in_flight": 1,
        "registers": REGISTERS,
        "requests_per_s": {name: round(value) for name, value in medians.items()},
        "cpu_us_per_request": {name: round(statistics.median(values), 1) for name, values in costs.items()},
        "ratio": round(medians["everbus"] / medians[PEER], 2),
        "answers_to_16_pipelined": answered,
        "load_generator": "C" if load else "Python: it may be the bottleneck, install gcc",
    }


def main() -> None:
    """Print the figures, for people or as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each round")
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = measure(options.seconds, options.connections)
    if options.json:
        print(json.dumps(result, indent=2))
        return
    for name, value in result.items():
        print(f"{name:24} {value}")


if __name__ == "__main__":
    main()
