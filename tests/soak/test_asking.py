"""Requests with everbus's own client: what it hides from its callers, as it should, is not hidden here."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from everbus.client.health import ClientStatistics
from everbus.protocol.client_session import SessionStatistics
from everbus.soak.asking import ClientRecord, ClientTotals, asking, read_once
from everbus.soak.target import CutShortError, CycleFailedError, FailureKind, Stop, Target
from everbus.sync import driver
from tests.soak.documents import NO_CLIENTS
from tests.soak.scripted import GOOD, Scripted, answer
from tests.soak.servers import ANSWERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NOT_MODBUS = b"HTTP/1.1 400 Bad Request\r\n\r\n"


@pytest.fixture
def stop() -> Iterator[Stop]:
    stop = Stop()
    yield stop
    stop.close()


class Device:
    """A server that does what the test says, in a thread of its own.

    Args:
        serve: is called with the listening socket.
        settings: of the target.
    """

    def __init__(self, serve: Callable[[socket.socket], None] = lambda _: None, **settings: object) -> None:
        self.totals = ClientTotals()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(5)
        target = Target(socket.AF_INET, self._listener.getsockname(), timeout_s=2.0, totals=self.totals)
        self.target = replace(target, **settings)  # type: ignore[arg-type]
        self._thread = threading.Thread(target=serve, args=(self._listener,))

    def __enter__(self) -> Device:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._listener.close()


# --- one request ------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [answer(1), answer(1, ANSWERS["exception"])], ids=["a value", "an exception"])
def test_an_answer(sent: bytes) -> None:
    server = Scripted(sent)
    with server as target:
        read_once(target)
    assert server.received == bytes.fromhex("0001 0000 0006 01 03 0000 0001")


def test_another_unit_is_asked_where_wanted() -> None:
    server = Scripted(bytes.fromhex("0001 0000 0005 00 03 02 0000"))
    with server as target:
        read_once(replace(target, unit=0))
    assert server.received[6] == 0


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(answer(1, ANSWERS[mode]), id=mode)
        for mode in ("wrong_protocol", "wrong_unit", "wrong_function", "wrong_count", "broken_count")
    ]
    + [
        pytest.param(answer(1, ANSWERS["foreign_exception"]), id="foreign_exception"),
        pytest.param(answer(2), id="wrong_transaction"),
        pytest.param(answer(2) + answer(1), id="two_answers"),
        pytest.param(NOT_MODBUS, id="not_modbus"),
    ],
)
def test_a_bad_answer(sent: bytes) -> None:
    with Scripted(sent) as target, pytest.raises(CycleFailedError) as caught:
        read_once(replace(target, timeout_s=0.15))
    assert (caught.value.kind, caught.value.connected) == (FailureKind.BAD_ANSWER, True)


@pytest.mark.parametrize(
    ("sent", "closes", "kind", "words"),
    [
        (b"", True, FailureKind.RESET, "was ended by the peer before the answer came"),
        (answer(1)[:-1], True, FailureKind.RESET, "was ended by the peer before the answer came"),
        (answer(1)[:-1], False, FailureKind.TIMEOUT, "did not answer"),
    ],
    ids=["closed", "half an answer", "half an answer in time"],
)
def test_no_answer(sent: bytes, closes: bool, kind: FailureKind, words: str) -> None:
    with Scripted(sent, closes=closes) as target, pytest.raises(CycleFailedError, match=words) as caught:
        read_once(replace(target, timeout_s=0.15))
    assert caught.value.kind is kind


def test_nobody_listens() -> None:
    with Device() as device:
        pass
    with pytest.raises(CycleFailedError, match="cannot connect: Connection refused") as caught:
        read_once(device.target)
    assert (caught.value.kind, caught.value.connected) == (FailureKind.REFUSED, False)
    assert device.totals.record() == replace(NO_CLIENTS, clients=1, connect_failures=1)


# --- several on one connection ----------------------------------------------------------------


@pytest.fixture
def careful(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client asks the socket before it sends, however lately it was used."""
    monkeypatch.setattr(driver, "_FRESH_S", -1.0)


def answered(listener: socket.socket) -> None:
    """One request of the next connection."""
    connection, _ = listener.accept()
    with connection:
        connection.sendall(connection.recv(100)[:2] + GOOD)
        connection.recv(100)  # until the client leaves


@pytest.mark.usefixtures("careful")
@pytest.mark.parametrize("comes_back", [True, False])
def test_a_connection_lost_between_two_requests_counts_though_the_client_makes_another(comes_back: bool) -> None:
    ended = threading.Event()

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        if not comes_back:
            listener.close()
        connection.close()
        ended.set()
        if comes_back:
            answered(listener)

    with Device(serve) as device, asking(device.target) as asker:
        asker.connect()
        ended.wait(5)
        with pytest.raises(CycleFailedError, match="the connection was ended between two requests") as caught:
            asker.read()
        assert caught.value.kind is FailureKind.RESET
    seen = replace(NO_CLIENTS, clients=1, calls=1, lost=1)
    again = replace(seen, connects=2) if comes_back else replace(seen, connects=1, connect_failures=1)
    assert device.totals.record() == again


@pytest.mark.usefixtures("careful")
@pytest.mark.parametrize(
    ("unasked", "words", "counted"),
    [
        (answer(7), "an answer to a request that was not made", replace(NO_CLIENTS, connects=1, unknown=1)),
        (NOT_MODBUS, "between two requests is no Modbus", replace(NO_CLIENTS, connects=2, replaced={"not_modbus": 1})),
    ],
    ids=["an answer", "no Modbus"],
)
def test_what_comes_unasked_counts_though_the_next_request_is_answered(
    unasked: bytes, words: str, counted: ClientRecord
) -> None:
    sent = threading.Event()

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(unasked)
            sent.set()
            while request := connection.recv(100):
                connection.sendall(request[:2] + GOOD)
        if unasked == NOT_MODBUS:
            answered(listener)

    with Device(serve) as device, asking(device.target) as asker:
        asker.connect()
        sent.wait(5)
        with pytest.raises(CycleFailedError, match=words) as caught:
            asker.read()
    assert caught.value.kind is FailureKind.BAD_ANSWER
    assert device.totals.record() == replace(counted, clients=1, calls=1)


def test_a_late_answer_is_not_the_next_ones_and_counts_for_nothing_more() -> None:
    late = threading.Event()

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(100)
            late.wait(5)
            connection.recv(100)
            connection.sendall(answer(1) + answer(2))
            connection.recv(100)

    with Device(serve, timeout_s=0.1) as device, asking(device.target) as asker:
        asker.connect()
        with pytest.raises(CycleFailedError) as caught:
            asker.read()
        assert caught.value.kind is FailureKind.TIMEOUT
        late.set()
        asker.read()
    assert device.totals.record() == replace(NO_CLIENTS, clients=1, calls=2, connects=1, late=1)


# --- the end of a run -------------------------------------------------------------------------


def test_the_end_of_the_run_ends_a_wait_for_an_answer(stop: Stop) -> None:
    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(100)
            stop.set()
            connection.recv(100)

    with Device(serve, timeout_s=30.0, stop=stop) as device, asking(device.target) as asker:
        asker.connect()
        begin = time.monotonic()
        with pytest.raises(CutShortError):
            asker.read()
        assert time.monotonic() - begin < 5
        for step in (asker.connect, asker.read):
            with pytest.raises(CutShortError):
                step()
    assert device.totals.record() == replace(NO_CLIENTS, clients=1, calls=1, connects=1)


def test_a_run_that_ends_while_it_connects(stop: Stop) -> None:
    """Whether the client notices, or is open again by then: nothing is asked."""
    with Device(stop=stop) as device, asking(device.target) as asker:
        asker._client.close()
        asker.connect()
        stop._event.set()
        with pytest.raises(CutShortError):
            asker.read()
    assert device.totals.record().calls == 0


# --- sums -------------------------------------------------------------------------------------


def test_what_all_of_them_counted() -> None:
    totals = ClientTotals()
    assert totals.record() == NO_CLIENTS
    session = SessionStatistics(submitted=9, completed=5, late=1, unknown=2, mismatched=3, lenient=9)
    seen = ClientStatistics(
        calls=4, attempts=9, retries=5, connects=6, connect_failures=7, lost=8, replaced={"partial": 2}, session=session
    )
    totals.add(seen)
    totals.add(replace(seen, replaced={"partial": 1, "silent": 1}))
    assert totals.record() == ClientRecord(
        clients=2,
        calls=8,
        retries=10,
        connects=12,
        connect_failures=14,
        lost=16,
        replaced={"partial": 3, "silent": 1},
        late=2,
        unknown=4,
        mismatched=6,
    )
