"""Descriptors run out, or seem to: faults A8, A9, A10 and A16."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from everbus.observe import EventKind
from tests.lifecycle.processes import WITH_DESCRIPTORS, ServerProcess, everbus_serve, hosting
from tests.lifecycle.support import (
    Noise,
    Peer,
    answered,
    asking,
    closing,
    connect_all,
    measured,
    others_served,
    serving,
    until,
)

DESCRIPTORS = 256
SERVICE_S = 1.5
"""Service is back within this time after a descriptor is free."""


def many_addresses(number: int) -> str:
    return f"127.0.3.{1 + number % 50}"


async def is_served(port: int, source: str) -> bool:
    """A newcomer asks once and leaves; whether it was answered."""
    try:
        with await Peer.connect(port, source) as peer:
            return await peer.ask() == 0
    except ConnectionError:
        return False


def back_at_the_start(server: ServerProcess, before: Any) -> bool:
    return bool((server.descriptors, server.listening) == before)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["127.0.0.1", many_addresses], ids=["one address", "many addresses"])
async def test_a08_400_clients_that_stay_on_256_descriptors(tmp_path: Path, source: Any) -> None:
    """A8: one that asks loses nothing, newcomers are served, the processor and the log stay quiet."""
    steady_s = 8.0
    with everbus_serve(tmp_path, "--max-connections", "100000", descriptor_limit=DESCRIPTORS) as server:
        assert 128 <= server.max_connections <= DESCRIPTORS - 64
        before = (server.descriptors, server.listening)
        with Noise() as noise:
            async with asking(server.port, every_s=0.02) as asker:
                with closing(await connect_all(server.port, 400, source)):
                    cpu, begun = server.cpu_s, time.monotonic()
                    await asyncio.sleep(steady_s / 2)
                    served = [await is_served(server.port, "127.0.0.1") for _ in range(5)]
                    served += [await is_served(server.port, many_addresses(number)) for number in range(5)]
                    await asyncio.sleep(steady_s / 2)
                    share = (server.cpu_s - cpu) / (time.monotonic() - begun)
                    assert server.descriptors.total <= DESCRIPTORS - 32
        measured("A8", cpu=f"{share:.2%}", log_bytes=server.log_bytes, asker_worst_s=asker.worst_s)
        measured("A8", answers=len(asker.latencies), lost=len(asker.failures), newcomers=served)
        assert asker.failures == []
        assert len(asker.latencies) >= steady_s / 0.02 / 4
        assert asker.share_s(0.99) <= 0.05 + 2 * noise.worst_s
        assert served == [True] * 10
        assert share < 0.15, f"{share:.1%} of a core"
        await until(lambda: back_at_the_start(server, before), 5.0, f"back at {before}")
        await answered(server.port)
        assert server.log_bytes < 20_000
        lines = [json.loads(line) for line in server.log_text.splitlines()]
        lowered = [line for line in lines if line.get("event") == EventKind.LIMIT_LOWERED.value]
        assert [line["level"] for line in lowered] == ["warning"]
        assert not [line for line in lines if line["level"] == "error" or line.get("event") == "accept_failed"]


@pytest.mark.slow
async def test_a09_something_else_uses_up_the_descriptors(tmp_path: Path) -> None:
    """A9: EMFILE: nobody is left hanging, the clients inside are served, and it recovers by itself."""
    with hosting(tmp_path, descriptor_limit=DESCRIPTORS, evict_after_s=60.0) as server:
        async with others_served(server.port):
            with closing(await connect_all(server.port, 20)) as inside, closing([]) as newcomers:
                await asyncio.gather(*(peer.ask() for peer in inside))
                held = server.do("hold", 10_000)
                assert server.descriptors.total == DESCRIPTORS
                cpu, begun = server.cpu_s, time.monotonic()
                for number in range(10):
                    newcomers.append(await Peer.connect(server.port, many_addresses(number)))
                    await asyncio.sleep(0.3)
                share = (server.cpu_s - cpu) / (time.monotonic() - begun)
                assert share < 0.15, f"{share:.1%} of a core while there are no descriptors"
                assert not newcomers[0].open  # the reserve was used to tell it so
                assert await asyncio.gather(*(peer.ask() for peer in inside)) == [0] * 20
                assert 1 <= server.statistics["accept_errors"]["EMFILE"] <= 20
                assert server.do("hold", 0) == 0 < held
                begun = time.monotonic()
                await newcomers[-1].ask()
                measured("A9", cpu=f"{share:.2%}", service_s=time.monotonic() - begun)
                assert time.monotonic() - begun <= SERVICE_S
            await answered(server.port, source="127.0.0.2")
        assert server.log_bytes < 5000
        assert 1 <= server.log_text.count("EMFILE") <= 6


@pytest.mark.slow
async def test_a09_a_connection_that_can_be_spared_makes_room(tmp_path: Path) -> None:
    """A9: with descriptors gone and an unused connection inside, a newcomer is served in its place."""
    with hosting(tmp_path, descriptor_limit=DESCRIPTORS) as server:
        with closing(await connect_all(server.port, 2)) as inside:
            used, unused = inside
            await used.ask()
            server.do("hold", 10_000)
            await asyncio.sleep(0.2)  # nobody is evicted in its first moments
            with await Peer.connect(server.port, "127.0.0.2") as newcomer:
                assert await newcomer.ask() == 0
                assert not unused.open
                assert await used.ask() == 0
                server.do("hold", 0)
            assert server.statistics["closed_by_reason"]["evicted_unused"] == 1
            assert server.statistics["accept_errors"] == {"EMFILE": 1}
        await asyncio.sleep(0.2)
        await answered(server.port)


@pytest.mark.slow
async def test_a09_the_limit_sinks_below_what_is_in_use(tmp_path: Path) -> None:
    """A9: by prlimit, while it serves: it lives, those inside are answered, newcomers once it may again."""
    with hosting(tmp_path, descriptor_limit=DESCRIPTORS, evict_after_s=60.0) as server:
        async with others_served(server.port):
            with closing(await connect_all(server.port, 50)) as inside:
                await asyncio.gather(*(peer.ask() for peer in inside))
                resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (32, DESCRIPTORS))
                for _ in range(2):  # its reserve is below the limit: each is told so
                    with await Peer.connect(server.port, "127.0.0.2") as newcomer:
                        await newcomer.until_closed(SERVICE_S)
                assert await asyncio.gather(*(peer.ask() for peer in inside)) == [0] * 50
                resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
                begun = time.monotonic()
                assert await is_served(server.port, "127.0.0.2")
                assert time.monotonic() - begun <= SERVICE_S
            assert server.statistics["accept_errors"] == {"EMFILE": 2}
            await answered(server.port, source="127.0.0.2")
        assert server.log_bytes < 5000


def test_a08_too_few_descriptors_to_serve_anybody() -> None:
    """A8: a limit of 72 leaves 8 connections: start is refused, in one clear line, and nothing hangs."""
    command = [sys.executable, "-c", WITH_DESCRIPTORS, "72", sys.executable, "-m", "everbus", "serve"]
    command += ["--listen", "tcp://127.0.0.1:0"]
    done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=20)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "descriptor limit of 72" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr) < 500


async def test_a08_the_command_raises_its_soft_limit(tmp_path: Path) -> None:
    """A8: with a soft limit of 64 and a hard one of 512 there is room for 400 connections."""
    with everbus_serve(tmp_path, "--max-connections", "400", descriptor_limit=64, hard_limit=512) as server:
        assert server.max_connections == 400
        assert "limit_lowered" not in server.log_text
        await answered(server.port)


async def test_a08_what_the_server_opens_is_not_inherited() -> None:
    """A8: a program that a handler starts gets none of the server's descriptors."""
    before = set(os.listdir("/proc/self/fd"))
    async with serving() as served:
        with await Peer.connect(served.port) as peer:
            await peer.ask()
            inheritable = {}
            for name in set(os.listdir("/proc/self/fd")) - before:
                with suppress(OSError):  # the one that lists them is gone by now
                    inheritable[name] = os.get_inheritable(int(name))
            assert len(inheritable) >= 3  # the listening socket, its reserve, both ends of the connection
            assert not any(inheritable.values())


class FailingAccept:
    """Stands in for ``socket.accept`` and fails; how often and how."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = self.raised = 0
        self.error = 0
        self.left = 0
        self._accept = socket.socket.accept
        monkeypatch.setattr(socket.socket, "accept", lambda sock: self.accept(sock))  # noqa: PLW0108  bound late, to a socket

    def fail(self, error: int, times: int) -> None:
        self.error, self.left = error, times

    def accept(self, sock: socket.socket) -> tuple[socket.socket, Any]:
        self.calls += 1
        if self.left:
            self.left -= 1
            self.raised += 1
            raise OSError(self.error, os.strerror(self.error))
        return self._accept(sock)


@pytest.mark.slow
@pytest.mark.parametrize("error", [errno.ENFILE, errno.EMFILE, errno.ENOMEM], ids=errno.errorcode.get)
async def test_a09_the_system_has_no_descriptor_left(error: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A9: ENFILE in accept: pauses of 0.1 to 1 s, then service within 1.5 s."""
    accept = FailingAccept(monkeypatch)
    async with serving() as served, others_served(served.port):
        accept.fail(error, 1_000_000)
        waiting = asyncio.create_task(is_served(served.port, "127.0.0.2"))
        await asyncio.sleep(3.0)
        assert 4 <= accept.raised <= 20, f"{accept.raised} accepts in 3 s"
        assert not waiting.done()
        begun = time.monotonic()
        accept.left = 0
        assert await waiting
        measured("A9", error=errno.errorcode[error], raised=accept.raised, service_s=time.monotonic() - begun)
        assert time.monotonic() - begun <= SERVICE_S
        name = errno.errorcode[error]
        assert set(served.statistics.accept_errors) == {name}
        assert served.statistics.accept_errors[name] <= accept.raised
        assert served.statistics.listeners == 1
        await answered(served.port)


@pytest.mark.parametrize("error", [errno.ECONNABORTED, errno.EPERM, errno.EPROTO], ids=errno.errorcode.get)
async def test_a10_accept_fails_a_hundred_times_in_a_row(error: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A10: it is that one peer's affair: the next is accepted at once."""
    accept = FailingAccept(monkeypatch)
    async with serving() as served, others_served(served.port):
        accept.fail(error, 100)
        begun = time.monotonic()
        assert await is_served(served.port, "127.0.0.2")
        assert time.monotonic() - begun <= SERVICE_S
        assert (accept.raised, accept.left) == (100, 0)
        assert served.statistics.accept_errors == {errno.errorcode[error]: 100}
        assert served.statistics.relistens == 0
        await answered(served.port)


@pytest.mark.slow
@pytest.mark.patient
async def test_a10_no_buffers_a_hundred_times_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """A10: ENOBUFS is exhaustion: a pause after each, of at most a second, two accepts a time."""
    accept = FailingAccept(monkeypatch)
    async with serving() as served, others_served(served.port):
        accept.fail(errno.ENOBUFS, 100)
        with await Peer.connect(served.port, "127.0.0.2") as peer:
            await until(lambda: accept.left == 0, 75.0, "a hundred failures")
            await peer.ask()
        assert served.statistics.accept_errors == {"ENOBUFS": 50}  # and 50 in vain for the newcomer's sake
        assert served.statistics.listeners == 1
        await answered(served.port)


@pytest.mark.slow
async def test_a16_one_alarm_each_way(tmp_path: Path) -> None:
    """A16: 70 % and 90 % of the descriptors, and back; trembling about a threshold tells nothing."""

    async def events(after: int) -> Counter[str]:
        """What was told once that many descriptors are open and somebody has looked."""
        server.do("hold", after)
        await asyncio.sleep(2.3)
        found = Counter(server.do("events"))
        return Counter({name: found[name] for name in (high, normal) if found[name]})

    high, normal = EventKind.DESCRIPTORS_HIGH.value, EventKind.DESCRIPTORS_NORMAL.value
    with hosting(tmp_path, descriptor_limit=DESCRIPTORS) as server:
        assert await events(int(DESCRIPTORS * 0.68)) == {}
        assert await events(int(DESCRIPTORS * 0.72)) == {high: 1}
        assert await events(int(DESCRIPTORS * 0.69)) == {high: 1}
        assert await events(int(DESCRIPTORS * 0.71)) == {high: 1}
        assert await events(int(DESCRIPTORS * 0.92)) == {high: 2}
        assert await events(int(DESCRIPTORS * 0.88)) == {high: 2}
        assert await events(int(DESCRIPTORS * 0.30)) == {high: 2, normal: 2}
        assert server.log_text.count("descriptors high") == 2
        await answered(server.port)
