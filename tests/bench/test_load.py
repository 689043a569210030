"""The load generators: they count what is right and convict what is not."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from bench import programs
from bench.contenders import Contender, running

SLOW_LOAD = [sys.executable, str(Path(programs.__file__).with_name("slow_load.py"))]
pytestmark = pytest.mark.slow

Twist = Callable[[int, bytes], bytes]


def requests_of(link: socket.socket) -> Iterator[bytes]:
    """Frames as they come."""
    buffer = b""
    while data := link.recv(8192):
        buffer += data
        while len(buffer) >= 7 and len(buffer) >= 6 + int.from_bytes(buffer[4:6], "big"):
            end = 6 + int.from_bytes(buffer[4:6], "big")
            yield buffer[:end]
            buffer = buffer[end:]


class Registers:
    """A server of holding registers; ``twist`` spoils the answer to the n-th read."""

    def __init__(self, twist: Twist) -> None:
        self.image = bytearray(2 * 2048)
        self.twist = twist
        self.reads = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.links: list[socket.socket] = []
        self.threads: list[threading.Thread] = []

    def answer(self, request: bytes) -> bytes:
        code, at, quantity = struct.unpack(">BHH", request[7:12])
        if code == 16:
            self.image[2 * at : 2 * (at + quantity)] = request[13:]
            return request[:4] + b"\0\6" + request[6:12]
        data = bytes(self.image[2 * at : 2 * (at + quantity)])
        self.reads += 1
        head = request[:4] + struct.pack(">HBBB", 3 + len(data), request[6], 3, len(data))
        return self.twist(self.reads, head + data)

    def serve(self, link: socket.socket) -> None:
        with suppress(OSError):
            for request in requests_of(link):
                link.sendall(self.answer(request))

    def accept(self) -> None:
        with suppress(OSError):
            while True:
                link = self.listener.accept()[0]
                self.links.append(link)
                self.threads.append(threading.Thread(target=self.serve, args=(link,)))
                self.threads[-1].start()


@contextmanager
def serving(twist: Twist = lambda _, answer: answer) -> Iterator[int]:
    server = Registers(twist)
    accepting = threading.Thread(target=server.accept)
    accepting.start()
    try:
        yield server.port
    finally:
        server.listener.shutdown(socket.SHUT_RDWR)
        server.listener.close()
        accepting.join()
        for link in server.links:
            with suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
        for thread in server.threads:
            thread.join()
        for link in server.links:
            link.close()


def load(command: list[str], port: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*command, str(port), *arguments], capture_output=True, text=True, check=False, timeout=30)


@pytest.fixture(params=["c", "python"])
def command(request: pytest.FixtureRequest) -> list[str]:
    if request.param == "python":
        return SLOW_LOAD
    if not programs.load_is_compiled():
        pytest.skip("there is no gcc")
    return programs.load_command()


@pytest.mark.parametrize("arguments", [("3", "4", "read", "10"), ("2", "1", "write", "5"), ("1", "16", "read", "125")])
def test_good_answers_are_counted(command: list[str], arguments: tuple[str, ...]) -> None:
    with serving() as port:
        done = load(command, port, "closed", *arguments, "0.3")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert set(result) == {"answered", "seconds", "lost", "p50_us", "p99_us", "p999_us", "cpu_s"}
    assert result["answered"] > 100
    assert result["lost"] == 0
    assert 0 < result["p50_us"] <= result["p99_us"] <= result["p999_us"]


def test_the_latency_is_what_the_server_takes(command: list[str]) -> None:
    def late(_: int, answer: bytes) -> bytes:
        time.sleep(0.02)
        return answer

    with serving(late) as port:
        done = load(command, port, "closed", "1", "1", "read", "10", "1")
    result = json.loads(done.stdout)
    assert result["p50_us"] * 1.04 >= 20_000  # the steps of the histogram are 3 % wide
    assert result["p50_us"] < 30_000
    assert 0.8 < result["seconds"] < 1.2
    assert result["answered"] <= 0.9 / 0.02 + 1


def test_cycles_of_connections_are_counted(command: list[str]) -> None:
    with serving() as port:
        done = load(command, port, "churn", "2", "0.2")
    assert json.loads(done.stdout)["answered"] > 10


@pytest.mark.parametrize(
    "spoiled",
    [
        lambda answer: answer[:-1] + bytes([answer[-1] ^ 1]),  # a wrong value
        lambda answer: b"\xff\xff" + answer[2:],  # a transaction that nobody asked for
        lambda answer: answer[:6] + b"\x02" + answer[7:],  # another unit
        lambda answer: answer[:7] + b"\x83\x02",  # broken off
    ],
    ids=["value", "transaction", "unit", "length"],
)
@pytest.mark.parametrize("in_flight", ["1", "2"])
def test_a_wrong_answer_ends_the_run(command: list[str], spoiled: Callable[[bytes], bytes], in_flight: str) -> None:
    with serving(lambda number, answer: spoiled(answer) if number == 50 else answer) as port:
        done = load(command, port, "closed", "2", in_flight, "read", "10", "0.5")
    assert done.returncode == 1
    assert str(port) in done.stderr


def test_requests_without_an_answer_are_counted(command: list[str]) -> None:
    with serving(lambda number, answer: b"" if number == 50 else answer) as port:
        done = load(command, port, "closed", "2", "4", "read", "10", "0.3")
    assert json.loads(done.stdout)["lost"] == 1


def test_the_floor_answers_rightly(command: list[str]) -> None:
    floor = programs.floor_server()
    if floor is None:
        pytest.skip("there is no gcc")
    with running(Contender(name="floor", command=(str(floor),))) as server:
        for operation in ("read", "write"):
            done = load(command, server.port, "closed", "4", "16", operation, "10", "0.2")
            assert done.returncode == 0, done.stderr
