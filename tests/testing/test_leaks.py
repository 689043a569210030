from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest

from everbus.aio.registry import Registry
from everbus.limits import Limits
from everbus.resources import Descriptors
from everbus.testing import Snapshot, no_leaked_tasks, no_leaks, snapshot

SHORT_S = 0.1


def test_a_snapshot_knows_what_is_open() -> None:
    before = snapshot()
    assert threading.current_thread() in before.threads
    assert before.descriptors.total > 0
    reader, writer = os.pipe()
    with socket.create_server(("127.0.0.1", 0)) as server:
        now = snapshot()
        assert now.descriptors.listening == before.descriptors.listening + 1
        assert now.descriptors.pipes == before.descriptors.pipes + 2
        assert f"127.0.0.1:{server.getsockname()[1]}" in now.listening
    os.close(reader)
    os.close(writer)
    assert snapshot().growth_since(before) == []


EMPTY = Snapshot(Descriptors(), (), frozenset(), 0)


def test_growth_is_told_by_kind() -> None:
    thread = threading.Thread(name="the one that stays")
    now = Snapshot(Descriptors(total=5, listening=1, tcp=2), ("127.0.0.1:502", "127.0.0.1:503"), frozenset({thread}), 3)
    before = replace(EMPTY, descriptors=Descriptors(total=3, tcp=1), listening=("127.0.0.1:502",), connections=1)
    assert now.growth_since(before) == [
        "total descriptors: 2 more (3 -> 5)",
        "listening descriptors: 1 more (0 -> 1)",
        "tcp descriptors: 1 more (1 -> 2)",
        "listens on 127.0.0.1:503",
        "thread the one that stays",
        "registry entries: 1 -> 3",
    ]


def test_less_than_before_is_no_growth() -> None:
    before = Snapshot(Descriptors(total=5, files=2), ("127.0.0.1:502",), frozenset({threading.Thread()}), 3)
    assert EMPTY.growth_since(before) == before.growth_since(before) == []


def test_kinds_are_compared_not_totals() -> None:
    """One file less does not hide one listening socket more: that is how the leak of pymodbus 3.7.4 went unseen."""
    before = replace(EMPTY, descriptors=Descriptors(total=3, files=3))
    now = replace(EMPTY, descriptors=Descriptors(total=3, files=2, listening=1))
    assert now.growth_since(before) == ["listening descriptors: 1 more (0 -> 1)"]


def test_what_is_closed_again_is_no_leak() -> None:
    with no_leaks(SHORT_S):
        socket.create_server(("127.0.0.1", 0)).close()
        worker = threading.Thread(target=time.sleep, args=(0.01,))
        worker.start()
        worker.join()


def test_an_open_descriptor_is_a_leak() -> None:
    with (
        ExitStack() as later,
        pytest.raises(AssertionError, match=r"still there after 0.1 s: .*files descriptors: 1 more"),
        no_leaks(SHORT_S),
    ):
        later.callback(os.close, os.open(os.devnull, os.O_RDONLY))


def listen(sock: socket.socket) -> None:
    sock.bind(("127.0.0.1", 0))
    sock.listen()


def test_a_listening_socket_is_a_leak_and_named() -> None:
    with (
        socket.socket() as late,
        pytest.raises(AssertionError, match=r"listens on 127\.0\.0\.1:\d+"),
        no_leaks(SHORT_S),
    ):
        listen(late)


def test_a_thread_is_a_leak_and_named() -> None:
    release = threading.Event()
    worker = threading.Thread(target=release.wait, name="the one that stays")
    try:
        with pytest.raises(AssertionError, match="thread the one that stays"), no_leaks(SHORT_S):
            worker.start()
    finally:
        release.set()
        worker.join()


class Member:
    host = "192.0.2.1"
    last_active = 0.0
    busy = False
    unsent_bytes = 0

    def sweep(self, now: float) -> None: ...
    def drain(self) -> None: ...
    def exempt(self, future: asyncio.Future[Any]) -> None: ...
    def close(self, reason: str) -> None: ...
    def abort(self, reason: str) -> None: ...


def test_an_entry_of_a_registry_is_a_leak() -> None:
    registry = Registry(Limits())
    member = Member()
    with pytest.raises(AssertionError, match="registry entries: 0 -> 1"), no_leaks(SHORT_S):
        registry.admit(member, 0.0)
    registry.discard(member)


def test_what_is_only_garbage_is_no_leak() -> None:
    class Knot:
        def __init__(self) -> None:
            self.me = self
            self.sock = socket.create_server(("127.0.0.1", 0))

        def __del__(self) -> None:
            self.sock.close()

    with no_leaks():
        Knot()


def test_what_is_still_closing_has_its_grace() -> None:
    late = socket.socket()
    closer = threading.Timer(0.1, late.close)
    with no_leaks():
        listen(late)
        closer.start()
    closer.join()


def test_an_error_in_the_block_is_not_hidden_by_what_it_left_behind() -> None:
    def listen_and_fail() -> None:
        with no_leaks(SHORT_S):
            listen(late)
            raise ZeroDivisionError

    with socket.socket() as late, pytest.raises(ZeroDivisionError):
        listen_and_fail()


async def test_a_task_that_ends_is_no_leak() -> None:
    async with no_leaked_tasks():
        soon = asyncio.create_task(asyncio.sleep(0.05))
    assert soon.done()


async def test_a_task_that_stays_is_a_leak() -> None:
    tasks: list[asyncio.Task[None]] = []
    with pytest.raises(AssertionError, match=r"tasks still run after 0.1 s: .*the one that stays"):
        async with no_leaked_tasks(SHORT_S):
            tasks.append(asyncio.create_task(asyncio.sleep(60), name="the one that stays"))
    tasks[0].cancel()
    await asyncio.wait(tasks)


async def test_tasks_that_were_there_before_are_no_leak() -> None:
    before = asyncio.create_task(asyncio.sleep(60))
    async with no_leaked_tasks(SHORT_S):
        pass
    before.cancel()
    await asyncio.wait([before])
