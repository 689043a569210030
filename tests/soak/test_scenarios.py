"""One cycle of churn against servers that misbehave in one way each."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from everbus.client.endpoint import Endpoint
from everbus.errors import ConnectError
from everbus.soak import scenarios
from everbus.soak.scenarios import SCENARIOS, Churn, CycleFailedError, FailureKind, Target, resolve
from tests.soak.servers import ANSWERS, GOOD, running

if TYPE_CHECKING:
    from pathlib import Path


class Scripted:
    """Takes one connection and answers its request with these bytes, in these pieces."""

    def __init__(self, *pieces: bytes, listener: socket.socket | None = None) -> None:
        self.pieces = pieces
        self.request = b""
        self.listener = listener or socket.create_server(("127.0.0.1", 0))
        self.thread = threading.Thread(target=self.serve)

    def __enter__(self) -> Target:
        self.thread.start()
        return Target(self.listener.family, self.listener.getsockname(), timeout_s=2)

    def __exit__(self, *_: object) -> None:
        self.thread.join()
        self.listener.close()

    def serve(self) -> None:
        connection, _ = self.listener.accept()
        with connection:
            self.request = connection.recv(100)
            for piece in self.pieces:
                connection.sendall(piece)
            connection.recv(100)


def answer(number: int, mode: str = "") -> bytes:
    return number.to_bytes(2) + ANSWERS.get(mode, GOOD)


def test_the_registry_names_every_scenario() -> None:
    assert set(SCENARIOS) == {"churn"}
    assert all(scenario.summary for scenario in SCENARIOS.values())


def test_a_cycle_asks_for_one_holding_register() -> None:
    server = Scripted(answer(0x1234))
    with server as target:
        Churn().cycle(target, 0x1234)
    assert server.request == bytes.fromhex("1234 0000 0006 01 03 0000 0001")


def test_another_unit_is_asked_where_wanted() -> None:
    server = Scripted(bytes.fromhex("0001 0000 0005 07 03 02 0000"))
    with server as target:
        Churn().cycle(Target(target.family, target.address, unit=7), 1)
    assert server.request[6] == 7


def test_numbers_beyond_a_transaction_id_begin_again() -> None:
    with Scripted(answer(5)) as target:
        Churn().cycle(target, 0x10005)


def test_an_exception_is_an_answer() -> None:
    with Scripted(answer(1, "exception")) as target:
        Churn().cycle(target, 1)


def test_an_answer_in_pieces_is_put_together() -> None:
    with Scripted(*(bytes([byte]) for byte in answer(9))) as target:
        Churn().cycle(target, 9)


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([answer(1, mode)], id=mode)
        for mode in ("wrong_protocol", "wrong_unit", "wrong_function", "wrong_count", "broken_count")
    ]
    + [
        pytest.param([answer(1, "foreign_exception")], id="foreign_exception"),
        pytest.param([answer(2)], id="wrong_transaction"),
        pytest.param([answer(2) + answer(1)], id="two_answers"),
        pytest.param([b"HTTP/1.1 400 Bad Request\r\n\r\n"], id="not_modbus"),
    ],
)
def test_a_bad_answer(pieces: list[bytes]) -> None:
    with Scripted(*pieces) as target, pytest.raises(CycleFailedError) as caught:
        Churn().cycle(target, 1)
    assert caught.value.kind is FailureKind.BAD_ANSWER
    assert caught.value.connected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "kind"),
    [("silent", FailureKind.TIMEOUT), ("closes", FailureKind.RESET), ("resets", FailureKind.RESET)],
)
def test_no_answer(mode: str, kind: FailureKind) -> None:
    with running(mode) as server, pytest.raises(CycleFailedError, match=r"answer|closed") as caught:
        Churn().cycle(resolve(server.endpoint, 1, 0.3)[0], 1)
    assert caught.value.kind is kind
    assert caught.value.connected


def test_one_byte_now_and_then_does_not_stretch_the_timeout() -> None:
    with running("dribbles") as server, pytest.raises(CycleFailedError) as caught:
        Churn().cycle(resolve(server.endpoint, 1, 0.01)[0], 1)
    assert caught.value.kind is FailureKind.TIMEOUT


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = probe.getsockname()
    with pytest.raises(CycleFailedError, match="cannot connect: Connection refused") as caught:
        Churn().cycle(Target(socket.AF_INET, address), 1)
    assert (caught.value.kind, caught.value.connected) == (FailureKind.REFUSED, False)


def test_an_address_that_cannot_be_reached() -> None:
    with pytest.raises(CycleFailedError) as caught:
        Target(socket.AF_INET, ("255.255.255.255", 502)).connect()
    assert (caught.value.kind, caught.value.connected) == (FailureKind.OTHER, False)


# --- addresses --------------------------------------------------------------------------------


def test_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "modbus.sock")
    (target,) = resolve(Endpoint("unix", path=path), 1, 2.0)
    with pytest.raises(CycleFailedError) as caught:
        Churn().cycle(target, 1)
    assert caught.value.kind is FailureKind.REFUSED
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    with Scripted(answer(1), listener=listener):
        Churn().cycle(target, 1)


def test_ipv6() -> None:
    listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    with Scripted(answer(1), listener=listener):
        port = listener.getsockname()[1]
        (target,) = resolve(Endpoint("tcp", host="::1", port=port), 1, 2.0)
        Churn().cycle(target, 1)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "x" * 300])
def test_a_name_that_is_not_known(host: str) -> None:
    with pytest.raises(ConnectError, match=f"cannot find '{host}'"):
        resolve(Endpoint("tcp", host=host, port=502), 1, 1.0)


# --- shortage on this machine -----------------------------------------------------------------


@pytest.mark.slow
def test_with_no_descriptor_left_it_waits_for_one() -> None:
    script = """
import os, resource, socket, threading, time
from everbus.soak.scenarios import Target
server = socket.create_server(("127.0.0.1", 0))
address = server.getsockname()
resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
held = []
try:
    while True:
        held.append(os.dup(0))
except OSError:
    pass
threading.Timer(0.4, lambda: os.close(held.pop())).start()
begin = time.monotonic()
Target(socket.AF_INET, address).connect().close()
print(time.monotonic() - begin > 0.3)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "True"


def test_a_shortage_that_stays_is_this_machines_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    class Used(socket.socket):
        def connect(self, address: object) -> None:
            raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))

    monkeypatch.setattr(scenarios, "_SHORTAGE_S", 0.25)
    monkeypatch.setattr(socket, "socket", Used)
    with pytest.raises(ConnectError, match="this machine can make no more connections"):
        Target(socket.AF_INET, ("127.0.0.1", 502)).connect()
