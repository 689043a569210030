"""Connections of a run, and what ends their waits."""

from __future__ import annotations

import errno
import os
import select
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from everbus.client.endpoint import Endpoint
from everbus.errors import ClientClosedError, ConnectError
from everbus.soak import target as target_module
from everbus.soak.asking import read_once
from everbus.soak.target import CutShortError, CycleFailedError, FailureKind, Link, Stop, Target, no_answer, resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SOON = 0.05


@pytest.fixture
def stop() -> Iterator[Stop]:
    stop = Stop()
    yield stop
    stop.close()


@pytest.fixture
def pair(stop: Stop) -> Iterator[tuple[Link, socket.socket]]:
    ours, theirs = socket.socketpair()
    with Link(ours, stop) as link, theirs:
        yield link, theirs


def soon() -> float:
    return time.monotonic() + SOON


# --- connecting -------------------------------------------------------------------------------


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = probe.getsockname()
    with pytest.raises(CycleFailedError, match="cannot connect: Connection refused") as caught:
        Target(socket.AF_INET, address).connect()
    assert (caught.value.kind, caught.value.connected) == (FailureKind.REFUSED, False)


def test_an_address_that_cannot_be_reached() -> None:
    with pytest.raises(CycleFailedError) as caught:
        Target(socket.AF_INET, ("255.255.255.255", 502)).connect()
    assert (caught.value.kind, caught.value.connected) == (FailureKind.OTHER, False)


def test_a_small_receive_buffer_is_soon_full() -> None:
    def unread(receive_buffer_bytes: int) -> int:
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            Target(socket.AF_INET, server.getsockname()).connect(receive_buffer_bytes),
            Link(server.accept()[0]) as accepted,
        ):
            sent = 0
            while more := accepted.send_some(bytes(65536)):
                sent += more
            return sent

    assert unread(4096) < unread(1 << 20)


def test_after_the_end_nobody_connects(stop: Stop) -> None:
    stop.set()
    with pytest.raises(CutShortError):
        Target(socket.AF_INET, ("127.0.0.1", 9), stop=stop).connect()


@pytest.mark.slow
def test_with_no_descriptor_left_it_waits_for_one() -> None:
    script = """
import os, resource, socket, threading, time
from everbus.soak.target import Target
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
with Target(socket.AF_INET, address).connect():
    print(time.monotonic() - begin > 0.3)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "True"


def test_a_shortage_that_stays_is_this_machines_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    class Used(socket.socket):
        def connect(self, address: object) -> None:
            raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))

    monkeypatch.setattr(target_module, "_SHORTAGE_S", 0.15)
    monkeypatch.setattr(socket, "socket", Used)
    target = Target(socket.AF_INET, ("127.0.0.1", 502))
    for connect in (target.connect, lambda: read_once(target)):
        with pytest.raises(ConnectError, match="this machine can make no more connections: Cannot assign"):
            connect()


# --- addresses --------------------------------------------------------------------------------


def test_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "modbus.sock")
    (target,) = resolve(Endpoint("unix", path=path), unit=7, timeout_s=2.0)
    assert (target.family, target.address, target.unit, target.timeout_s) == (socket.AF_UNIX, path, 7, 2.0)
    assert target.endpoint == Endpoint("unix", path=path)
    with pytest.raises(CycleFailedError) as caught:
        target.connect()
    assert caught.value.kind is FailureKind.REFUSED
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with target.connect():
            pass


def test_ipv6() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        (target,) = resolve(Endpoint("tcp", host="::1", port=listener.getsockname()[1]))
        with target.connect():
            pass
        assert str(target.endpoint) == f"tcp://[::1]:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    ("address", "host"), [(("::1", 502, 0, 0), "::1"), (("fe80::1", 502, 0, 3), "fe80::1%3"), (("::1", 502), "::1")]
)
def test_the_endpoint_of_an_address_of_ipv6(address: tuple[object, ...], host: str) -> None:
    """A link-local one means something on one link only."""
    assert Target(socket.AF_INET6, address).endpoint == Endpoint("tcp", host=host, port=502)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "x" * 300])
def test_a_name_that_is_not_known(host: str) -> None:
    with pytest.raises(ConnectError, match=f"cannot find '{host}'"):
        resolve(Endpoint("tcp", host=host, port=502))


# --- links ------------------------------------------------------------------------------------


def test_what_is_sent_and_received(pair: tuple[Link, socket.socket]) -> None:
    link, theirs = pair
    link.send(b"asked", soon())
    assert theirs.recv(100) == b"asked"
    theirs.sendall(b"answered")
    assert link.readable(soon())
    assert link.receive(soon(), at_most=3) == b"ans"
    assert link.receive(soon()) == b"wered"
    theirs.close()
    assert link.receive(soon()) == b""


def test_nothing_comes_in_time(pair: tuple[Link, socket.socket]) -> None:
    link, _ = pair
    begin = time.monotonic()
    assert not link.readable(begin + SOON)
    with pytest.raises(TimeoutError):
        link.receive(begin + 2 * SOON)
    assert time.monotonic() - begin >= 2 * SOON


def test_what_comes_without_end_does_not_stretch_the_deadline(pair: tuple[Link, socket.socket]) -> None:
    link, theirs = pair
    theirs.sendall(bytes(1000))
    with pytest.raises(TimeoutError):
        link.receive(time.monotonic())


def test_nobody_takes_what_is_sent(pair: tuple[Link, socket.socket]) -> None:
    link, _ = pair
    with pytest.raises(TimeoutError):
        link.send(bytes(16 << 20), soon())
    assert link.send_some(b"more") == 0


def test_what_does_not_go_at_once_goes_later(pair: tuple[Link, socket.socket]) -> None:
    link, theirs = pair
    taken = bytearray()

    def take() -> None:
        while len(taken) < 4 << 20:
            taken.extend(theirs.recv(65536))

    reader = threading.Thread(target=take)
    reader.start()
    link.send(bytes(4 << 20), time.monotonic() + 10)
    reader.join()


def test_a_reset_is_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        link = Target(socket.AF_INET, server.getsockname()).connect()
        accepted, _ = server.accept()
        link.reset()
        with accepted, pytest.raises(ConnectionResetError):
            accepted.recv(100)


@pytest.mark.parametrize("wait", ["receive", "send", "rest"])
def test_the_end_of_the_run_ends_every_wait(pair: tuple[Link, socket.socket], stop: Stop, wait: str) -> None:
    link, _ = pair
    much_later = time.monotonic() + 30
    waits: dict[str, Callable[[], object]] = {
        "receive": lambda: link.receive(much_later),
        "send": lambda: link.send(bytes(16 << 20), much_later),
        "rest": lambda: link.rest(much_later),
    }
    threading.Timer(SOON, stop.set).start()
    with pytest.raises(CutShortError):
        waits[wait]()
    assert time.monotonic() < much_later - 25
    with pytest.raises(CutShortError):
        link.readable(much_later)


def test_a_link_of_no_run_rests_too() -> None:
    ours, theirs = socket.socketpair()
    with theirs, Link(ours) as link:
        until = soon()
        link.rest(until)
        assert time.monotonic() >= until


def test_where_there_is_no_poll(pair: tuple[Link, socket.socket], stop: Stop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(select, "poll")
    link, theirs = pair
    assert not link.readable(soon())
    theirs.sendall(b"x")
    assert link.readable(soon())
    with pytest.raises(TimeoutError):
        link.send(bytes(16 << 20), soon())
    stop.set()
    with pytest.raises(CutShortError):
        link.receive(soon())


# --- the end of a run -------------------------------------------------------------------------


def test_a_stop_can_be_told_and_closed_again_and_again() -> None:
    stop = Stop()
    assert not stop.is_set()
    assert not stop.wait(-1)
    for _ in range(2):
        stop.set()
        assert stop.is_set()
        assert stop.wait(30)
    for _ in range(2):
        stop.close()


def test_the_end_calls_who_cannot_wait_for_it(stop: Stop) -> None:
    told: list[str] = []
    with stop.ending(lambda: told.append("over")):
        pass
    with stop.ending(lambda: told.append("under way")):
        stop.set()
        assert told == ["under way"]


def test_a_client_closed_by_the_end_is_cut_short() -> None:
    def connect() -> None:
        raise ClientClosedError("the client was closed while it connected")

    with pytest.raises(CutShortError):
        Target(socket.AF_INET, ("127.0.0.1", 9)).reach(connect)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TimeoutError("timed out"), FailureKind.TIMEOUT),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), FailureKind.RESET),
        (BrokenPipeError(), FailureKind.RESET),
        (OSError(errno.EHOSTUNREACH, "No route to host"), FailureKind.OTHER),
    ],
)
def test_why_there_was_no_answer(error: OSError, kind: FailureKind) -> None:
    failure = no_answer(error)
    assert failure.kind is kind
    assert failure.connected
    assert str(failure) == f"no answer: {error.strerror or error}"
