"""What is no Modbus, against servers that do not survive it, or do not end it."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from everbus.errors import PduError
from everbus.protocol.codes import FunctionCode
from everbus.protocol.framing.mbap import MbapFramer
from everbus.protocol.pdu.table import PUBLIC
from everbus.soak.scenarios import garbage
from everbus.soak.scenarios.garbage import KINDS, Garbage
from everbus.soak.target import CycleFailedError, FailureKind, Target
from everbus.soak.verdicts import Verdict
from tests.soak.faulty import Deaf, DiesOfGarbage, Right
from tests.soak.judged import EVERBUS, brief, verdicts
from tests.soak.scripted import answer

WRITES = {
    FunctionCode.WRITE_SINGLE_COIL,
    FunctionCode.WRITE_SINGLE_REGISTER,
    FunctionCode.WRITE_MULTIPLE_COILS,
    FunctionCode.WRITE_MULTIPLE_REGISTERS,
    FunctionCode.WRITE_FILE_RECORD,
    FunctionCode.MASK_WRITE_REGISTER,
    FunctionCode.READ_WRITE_MULTIPLE_REGISTERS,
}


def made(kind: str, count: int = 300) -> list[bytes]:
    return [KINDS[kind](random.Random(number), 1) for number in range(count)]


# --- what is sent -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "a function code with a broken body"])
def test_what_is_no_modbus_is_none(kind: str) -> None:
    """It is at fault at once: never half a good frame, of which a server may wait for the rest."""
    for data in made(kind):
        framer = MbapFramer()
        frames = framer.feed(data)
        assert framer.fault is not None
        assert len(frames) == (kind == "a good request and noise")


def test_broken_bodies_are_whole_frames_that_no_server_can_take_for_a_write() -> None:
    codes = set()
    for data in made("a function code with a broken body", 5000):
        (frame,) = MbapFramer().feed(data)
        codes.add(frame.pdu[0])
        if frame.pdu[0] in WRITES:
            with pytest.raises(PduError):
                PUBLIC.decode_request(frame.pdu)
            assert len(frame.pdu) <= 4 or not any(frame.pdu[3:])
    assert codes == set(range(256))


def test_lengths_and_protocols_are_wrong() -> None:
    lengths = {int.from_bytes(data[4:6]) for data in made("a wrong length")}
    assert lengths == {0, 1, 255, 65535}
    assert all(data[2:4] != b"\0\0" for data in made("a wrong protocol id"))


# --- what a server may do ---------------------------------------------------------------------


class Twice:
    """Takes two connections: the first as it is told, the second is answered well."""

    def __init__(self, first: Callable[[socket.socket], None]) -> None:
        self.first = first
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.thread = threading.Thread(target=self.serve)

    def __enter__(self) -> Target:
        self.thread.start()
        return Target(socket.AF_INET, self.listener.getsockname(), timeout_s=2)

    def __exit__(self, *_: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.listener.close()

    def serve(self) -> None:
        try:
            connection, _ = self.listener.accept()
            with connection:
                connection.recv(1000)
                self.first(connection)
            connection, _ = self.listener.accept()
            with connection:
                connection.sendall(answer(int.from_bytes(connection.recv(1000)[:2])))
                connection.recv(1000)
        except OSError:
            return


def says_something(connection: socket.socket) -> None:
    connection.sendall(b"ha")


def answers_the_good_request(connection: socket.socket) -> None:
    connection.sendall(answer(0x7777))
    connection.sendall(answer(int.from_bytes(connection.recv(1000)[:2])))
    connection.recv(1000)


def is_deaf(connection: socket.socket) -> None:
    while connection.recv(1000):
        pass


def talks_without_end(connection: socket.socket) -> None:
    while True:
        connection.sendall(bytes.fromhex("ff") * 100)


@pytest.mark.parametrize("act", [lambda _: None, says_something, answers_the_good_request])
def test_to_close_or_to_answer_is_right(act: Callable[[socket.socket], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "_PATIENCE_S", 0.02)
    with Twice(act) as target:
        Garbage().cycle(target, 0x1234)


@pytest.mark.parametrize("act", [is_deaf, talks_without_end])
def test_to_stay_open_without_an_answer_is_not(act: Callable[[socket.socket], None]) -> None:
    with Twice(act) as target, pytest.raises(CycleFailedError, match="it stays open and answers nothing") as caught:
        Garbage().cycle(replace(target, timeout_s=0.15), 0x1234)
    assert caught.value.kind is FailureKind.DEAF


def test_the_next_connection_must_be_answered() -> None:
    with Twice(lambda _: None) as target:
        Garbage().cycle(target, 1)
        with pytest.raises(CycleFailedError) as caught:
            Garbage().cycle(replace(target, timeout_s=0.2), 2)
    assert caught.value.kind in (FailureKind.REFUSED, FailureKind.DEAF, FailureKind.TIMEOUT)


@pytest.mark.slow
def test_a_server_that_dies_of_the_first_is_convicted_not_missed() -> None:
    found = verdicts(brief("garbage", cycles=200, polite=0, concurrency=1, timeout_s=0.5), DiesOfGarbage)
    assert found[DiesOfGarbage].verdict is Verdict.FAILING


@pytest.mark.slow
def test_both_ways() -> None:
    options = brief("garbage", duration_s=2.0, concurrency=4, timeout_s=0.5)
    found = verdicts(options, Deaf, DiesOfGarbage, Right, EVERBUS)
    convicted = found[Deaf]
    assert convicted.verdict is Verdict.FAILING
    assert convicted.findings == (f"{convicted.failed} of {convicted.cycles} cycles failed ({convicted.failed} deaf)",)
    assert "it stays open and answers nothing for 0.5 s" in convicted.first_failure
    dead = found[DiesOfGarbage]
    assert dead.verdict is Verdict.FAILING
    assert dead.record is not None
    assert dead.findings[0].startswith(f"process {dead.record.pid} ended after ")
    for kind in (Right, EVERBUS):
        assert (found[kind].verdict, found[kind].findings) == (Verdict.CLEAN, ()), found[kind].reason
        assert found[kind].cycles > 100
