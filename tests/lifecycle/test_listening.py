"""The listening socket is taken away from under its owner: fault A11. At most one listens, ever."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest

from everbus.observe import EventKind
from everbus.resources import listening_addresses
from tests.lifecycle.processes import hosting
from tests.lifecycle.support import Peer, Served, answered, asking, others_served, serving, until

SHORT: Final[dict[str, Any]] = {"frame_timeout_s": 0.2}
"""Swept every 0.05 s."""


def listening_descriptor(port: int) -> int:
    """The descriptor of this process that listens on a port of 127.0.0.1."""
    table = Path("/proc/self/net/tcp").read_text(encoding="ascii")
    found = re.search(rf" 0100007F:{port:04X} \S+ 0A (?:\S+ +){{5}}(\d+) ", table)
    assert found, f"nobody listens on {port}"
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            if os.readlink(f"/proc/self/fd/{name}") == f"socket:[{found[1]}]":
                return int(name)
    raise AssertionError(f"the socket on {port} is not ours")


@contextmanager
def never_more_than_one(port: int) -> Iterator[None]:
    """Samples, from a thread, how many sockets of this process listen on a port."""
    samples: list[int] = []
    over = threading.Event()

    def sample() -> None:
        while not over.wait(0.01):
            samples.append(listening_addresses().count(f"127.0.0.1:{port}"))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert samples
    assert max(samples) <= 1


async def listens_again(served: Served, times: int) -> None:
    """It has noticed and come back; a newcomer is served."""
    await until(lambda: served.statistics.relistens == times, 2.0, "listening again")
    assert served.statistics.listeners == 1
    assert listening_addresses().count(f"127.0.0.1:{served.port}") == 1
    await answered(served.port)


def close(number: int) -> None:
    os.close(number)


def shut_down(number: int) -> None:
    with socket.socket(fileno=os.dup(number)) as same:
        same.shutdown(socket.SHUT_RDWR)


@pytest.mark.slow
@pytest.mark.parametrize("harm", [close, shut_down], ids=["closed", "shut down"])
async def test_a11_the_listening_socket_is_taken_away(harm: Callable[[int], None]) -> None:
    """A11: five times: the sweep sees it, the owner listens again, those inside notice nothing."""
    async with serving(**SHORT) as served, asking(served.port) as inside:
        with never_more_than_one(served.port):
            for times in range(1, 6):
                harm(listening_descriptor(served.port))
                await listens_again(served, times)
        lost = served.observer.reasons(EventKind.LISTENER_LOST)
        assert len(lost) == 5
        assert set(lost) <= {"closed", "replaced", "shut down"}  # its number may be in use again by then
        assert served.observer.reasons(EventKind.LISTENER_OPENED) == ["start", *["again"] * 5]
        assert set(served.statistics.accept_errors) <= {"EBADF", "EINVAL", "ENOTSOCK"}
        assert inside.failures == []


@pytest.mark.slow
async def test_a11_others_are_answered_meanwhile(tmp_path: Path) -> None:
    """A11: five times, in a process that has nothing else to do."""
    with hosting(tmp_path, **SHORT) as server:
        async with others_served(server.port):
            for times in range(1, 6):
                server.do("close_listener")
                await until(lambda: server.statistics["relistens"] == times)  # noqa: B023  awaited here
                await answered(server.port)
        assert server.statistics["listeners"] == server.descriptors.listening == 1


@pytest.mark.parametrize("foreign", ["pipe", "listening socket"])
async def test_a11_the_listening_socket_is_replaced(foreign: str) -> None:
    """A11: its number belongs to something else now, which stays untouched."""
    async with serving(**SHORT) as served:
        with never_more_than_one(served.port):
            number = listening_descriptor(served.port)
            if foreign == "pipe":
                replacement, other_end = os.pipe()
                os.write(other_end, b"readable")
            else:
                with socket.create_server(("127.0.0.1", 0)) as other:
                    replacement, other_end = os.dup(other.fileno()), os.dup(other.fileno())
            try:
                identity = os.fstat(replacement)
                os.dup2(replacement, number)
                await listens_again(served, 1)
                assert served.observer.reasons(EventKind.LISTENER_LOST) == ["replaced"]
                await served.server.stop()
                assert os.path.samestat(os.fstat(number), identity)
            finally:
                for held in (replacement, other_end, number):
                    os.close(held)


@pytest.mark.slow
async def test_a11_somebody_else_has_the_port_meanwhile() -> None:
    """A11: it tries with back-off, and listens again once the port is free."""
    async with serving(**SHORT) as served:
        number = listening_descriptor(served.port)
        os.close(number)
        with socket.socket() as thief:
            thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            thief.bind(("127.0.0.1", served.port))
            thief.listen()
            with never_more_than_one(served.port):
                await asyncio.sleep(1.0)
                assert served.statistics.listeners == 0
                assert 2 <= served.statistics.accept_errors["relisten EADDRINUSE"] <= 6
        with never_more_than_one(served.port):
            begun = time.monotonic()
            await listens_again(served, 1)
            assert time.monotonic() - begun <= 1.5


async def test_a11_a_server_that_has_lost_its_listener_stops_cleanly() -> None:
    """A11: stop while nobody listens, with the next attempt due: it does not come."""
    async with serving(**SHORT) as served:
        os.close(listening_descriptor(served.port))
        with socket.socket() as thief:
            thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            thief.bind(("127.0.0.1", served.port))
            thief.listen()
            await until(lambda: served.statistics.listeners == 0)
            await served.server.stop()
        await asyncio.sleep(0.3)
        assert listening_addresses().count(f"127.0.0.1:{served.port}") == 0


async def test_a11_stopped_before_the_sweep_has_seen_the_loss() -> None:
    """A11: stop right after the descriptor was closed, and its number taken by a client of ours."""
    async with serving(frame_timeout_s=60.0, write_timeout_s=60.0, handler_timeout_s=60.0) as served:
        with await Peer.connect(served.port) as peer:
            await peer.ask()
            number = listening_descriptor(served.port)
            os.dup2(peer.socket.fileno(), number)
            await served.server.stop()
            assert os.path.samestat(os.fstat(number), os.fstat(peer.socket.fileno()))
            os.close(number)
