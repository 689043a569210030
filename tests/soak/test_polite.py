"""Polite clients: what they ask, what they report, and whom they blame."""

from __future__ import annotations

import ctypes
import socket
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from everbus.errors import ConnectError
from everbus.soak import polite
from everbus.soak.polite import INTERVAL_S, OwnDelay, PoliteClients
from everbus.soak.target import CycleFailedError, FailureKind, Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from everbus.soak.verdicts import PoliteRecord


class Device:
    """Serves any number of connections, each in a thread; ``act`` may spoil the answer to a request.

    Args:
        act: takes the number of the request and its answer, and returns what is sent; nothing: it closes.
    """

    def __init__(self, act: Callable[[int, bytes], bytes] = lambda _, answer: answer) -> None:
        self.act = act
        self.requests: list[bytes] = []
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Target:
        self._threads[0].start()
        return Target(socket.AF_INET, self._listener.getsockname(), timeout_s=0.3)

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(ConnectionError):  # a client may leave with a reset
            while request := connection.recv(100):
                self.requests.append(request)
                size = 2 * request[11]
                answer = request[:5] + bytes([3 + size, request[6], 3, size]) + bytes(size)
                answer = self.act(len(self.requests), answer)
                if not answer:
                    return
                connection.sendall(answer)


@contextmanager
def clients(target: Target, count: int = 2, late_s: float | None = None) -> Iterator[PoliteClients]:
    own_delay = OwnDelay().start()
    errors: list[Exception] = []
    made = PoliteClients(target, count, own_delay, late_s, errors.append)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        own_delay.stop()
    assert errors == []


def seen(device: Device, for_s: float, count: int = 1, late_s: float | None = None) -> PoliteRecord:
    with device as target, clients(target, count, late_s) as polite_clients:
        time.sleep(for_s)
        return polite_clients.record()


def test_each_has_one_connection_and_asks_now_and_then() -> None:
    device = Device()
    begin = time.monotonic()
    with device as target, clients(target, 3) as polite_clients:
        while (record := polite_clients.record()).requests < 9:
            time.sleep(0.01)
    assert 1.5 * INTERVAL_S < time.monotonic() - begin < 5
    assert device.connections == record.clients == 3
    assert (record.failed, record.failures, record.first_failure, record.late) == (0, {}, "", 0)
    assert record.p50_s is not None
    assert record.worst_s is not None
    assert 0 < record.p50_s <= record.worst_s < 0.3
    assert sum(sample.requests for sample in record.samples) == record.requests


def test_lengths_differ_from_one_request_to_the_next() -> None:
    device = Device()
    seen(device, 3 * INTERVAL_S)
    assert [request[11] for request in device.requests[:3]] == [2, 3, 4]
    assert [int.from_bytes(request[:2]) for request in device.requests[:3]] == [1, 2, 3]


@pytest.mark.parametrize(
    ("act", "kind", "connections"),
    [
        (lambda answer: b"", "reset", 2),
        (lambda answer: answer[:1] + b"\xff" + answer[2:], "bad_answer", 1),
        (lambda answer: answer[:7] + b"\x83\x02\x00" + answer[10:], "bad_answer", 1),
    ],
    ids=["closed", "another id", "no exception"],
)
def test_a_failure_is_counted_and_the_client_goes_on(
    act: Callable[[bytes], bytes], kind: str, connections: int
) -> None:
    """On the same connection, if that is up."""
    device = Device(lambda number, answer: act(answer) if number == 2 else answer)
    with device as target, clients(replace(target, timeout_s=0.1), 1) as polite_clients:
        while (record := polite_clients.record()).requests < 4:
            time.sleep(0.01)
    assert (record.failures, record.failed) == ({kind: 1}, 1)
    assert device.connections == connections
    assert record.first_failure.startswith("polite request 2: ")


@pytest.mark.slow
def test_no_answer_is_a_timeout() -> None:
    record = seen(Device(lambda number, answer: answer if number < 3 else answer[:3]), 0.8)
    assert record.failures["timeout"] >= 1
    assert record.first_failure.startswith("polite request 3: unit 1 of tcp://127.0.0.1:")


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = probe.getsockname()
    with clients(Target(socket.AF_INET, address)) as polite_clients:
        record = polite_clients.record()
    assert record.failures["refused"] >= 2
    assert (record.p50_s, record.p99_s, record.worst_s) == (None, None, None)


def test_what_is_due_while_nobody_listens_counts() -> None:
    """A client by itself would wait longer and longer before it tries again."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = probe.getsockname()
    with clients(Target(socket.AF_INET, address), 1) as polite_clients:
        begin = time.monotonic()
        while polite_clients.record().requests < 6:
            time.sleep(0.01)
    assert time.monotonic() - begin < 12 * INTERVAL_S


def test_this_machines_shortage_is_nobodys_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(target: Target, connect: object) -> None:
        raise ConnectError("no port left")

    monkeypatch.setattr(Target, "reach", short)
    with clients(Target(socket.AF_INET, ("127.0.0.1", 9))) as polite_clients:
        record = polite_clients.record()
    assert (record.requests, record.failed) == (0, 0)
    assert record.excused >= 2


def test_the_end_of_the_cycles_is_not_theirs() -> None:
    """They go on after the others have been stopped, and end at once when they are stopped themselves."""
    with Device() as target:
        with clients(target, 5):
            pass
        begin = time.monotonic()
        with clients(Target(target.family, target.address, timeout_s=30.0)):
            pass
        assert time.monotonic() - begin < 1


# --- late -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_late_requests_count_with_those_that_were_due_meanwhile() -> None:
    def slow(number: int, answer: bytes) -> bytes:
        if number == 2:
            time.sleep(0.02 + 3.5 * INTERVAL_S)
        return answer

    record = seen(Device(slow), 6 * INTERVAL_S, late_s=0.02)
    assert 2 <= record.late <= 4
    assert record.worst_s is not None
    assert record.worst_s > 3.5 * INTERVAL_S


def test_where_there_is_no_bound_nobody_is_late() -> None:
    def slow(number: int, answer: bytes) -> bytes:
        time.sleep(0.1)
        return answer

    assert seen(Device(slow), 0.15).late == 0


def test_what_this_machine_was_late_by_is_forgiven() -> None:
    book = polite._Book(late_s=0.25, on_error=lambda _: None)
    book.answered(took_s=0.9, own_delay_s=0.4)
    assert book.late == 0
    book.answered(took_s=0.9, own_delay_s=0.0)
    assert book.late == 1 + 13


# --- this machine -----------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="there is no usleep")
def test_the_own_delay_is_measured() -> None:
    """Nobody else runs here while the interpreter is held: that is what a busy machine is like."""
    delay = OwnDelay().start()
    try:
        time.sleep(0.05)
        begin = time.monotonic()
        ctypes.PyDLL(None).usleep(150_000)
        assert delay.since(begin) >= 0.1
        time.sleep(0.05)
        assert delay.since(time.monotonic()) < 0.1
    finally:
        delay.stop()
    assert delay.worst_s >= 0.1


def test_a_delay_that_goes_on_counts() -> None:
    delay = OwnDelay()
    delay._due = time.monotonic() - 0.5
    assert delay.since(time.monotonic()) >= 0.5


def test_only_delays_of_the_time_that_is_asked_for_count() -> None:
    delay = OwnDelay()
    delay._due = time.monotonic() + 60
    delay._noted.extend([(10.0, 0.9), (20.0, 0.3), (30.0, 0.1)])
    assert [delay.since(begin) for begin in (5.0, 15.0, 25.0, 35.0)] == [0.9, 0.3, 0.1, 0.0]


@pytest.mark.parametrize(
    ("kind", "begin", "excused"),
    [
        (FailureKind.TIMEOUT, 0.0, True),
        (FailureKind.DEAF, 0.0, True),
        (FailureKind.MISSING, 0.0, True),
        (FailureKind.TIMEOUT, 25.0, False),
        (FailureKind.RESET, 0.0, False),
        (FailureKind.BAD_ANSWER, 0.0, False),
        (FailureKind.HELD, 0.0, False),
    ],
)
def test_a_machine_that_stood_still_excuses_what_did_not_come_in_time(
    kind: FailureKind, begin: float, excused: bool
) -> None:
    delay = OwnDelay()
    delay._due = time.monotonic() + 60
    delay._noted.append((20.0, 0.8))
    assert delay.excuses(CycleFailedError(kind, "so it was"), begin, timeout_s=3.0) is excused


@pytest.mark.slow
def test_an_excused_failure_is_counted_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OwnDelay, "since", lambda *_: 1.0)
    device = Device(lambda number, answer: answer if number < 3 else answer[:3])
    record = seen(device, 0.6)
    assert record.failed == 0
    assert record.excused >= 1
    assert device.connections >= 2
