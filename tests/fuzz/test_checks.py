"""The checks convict: each invariant is broken once, by something that breaks no other, and that is seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from everbus.errors import FramingError
from everbus.protocol.client_session import ClientSession, Completion
from everbus.protocol.describe import Description
from everbus.protocol.framing.base import Frame, FramerStatistics
from everbus.protocol.framing.mbap import MbapFramer
from everbus.protocol.pdu.base import Pdu
from everbus.protocol.pdu.registers import ReadHoldingRegistersRequest
from everbus.protocol.pdu.table import PUBLIC
from everbus.service.bank import Bank
from everbus.service.local import LocalDevice
from tests.fuzz.decoding import check_decoder
from tests.fuzz.framing import check_framer
from tests.fuzz.harnesses import client_session, describe
from tests.fuzz.inputs import stream_input
from tests.fuzz.serving import AllowAllSlowly, Conversation

READ = bytes.fromhex("000100000006010300000001")
INPUT = stream_input(READ + READ[:4], (5,))


class Wrapped:
    """An MBAP framer that a subclass breaks."""

    def __init__(self) -> None:
        self.inner = MbapFramer()

    @property
    def fault(self) -> FramingError | None:
        return self.inner.fault

    @property
    def pending(self) -> int:
        return self.inner.pending

    @property
    def pending_transaction(self) -> int | None:
        return self.inner.pending_transaction

    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        return self.inner.feed(data)

    def gap(self) -> list[Frame]:
        return self.inner.gap()

    def encode(self, unit: int, pdu: bytes, transaction: int = 0) -> bytes:
        return self.inner.encode(unit, pdu, transaction)

    def statistics(self) -> FramerStatistics:
        return self.inner.statistics()


class Raises(Wrapped):
    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        raise IndexError


class Hoards(Wrapped):
    pending = 260


class LosesWhatIsSplit(Wrapped):
    def __init__(self) -> None:
        super().__init__()
        self.given = 0

    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        frames = MbapFramer().feed(data)
        self.given += len(frames)
        return frames

    def statistics(self) -> FramerStatistics:
        return FramerStatistics(self.given)


class KeepsTheBuffer(Wrapped):
    """Keeps a view instead of a copy."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[bytes | bytearray | memoryview] = []

    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        self.held.append(data)
        frames = MbapFramer().feed(b"".join(self.held))
        if frames:
            self.held = []
        return frames


class Invents(Wrapped):
    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        return [frame._replace(unit=frame.unit ^ 1) for frame in self.inner.feed(data)]


class Impossible(Wrapped):
    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        return [frame._replace(pdu=b"") for frame in self.inner.feed(data)]


class Forgets(Wrapped):
    pending = 0


class CountsTwice(Wrapped):
    def statistics(self) -> FramerStatistics:
        return FramerStatistics(2 * self.inner.statistics().frames)


def test_a_sound_framer_passes() -> None:
    check_framer(INPUT, Wrapped, 259)


@pytest.mark.parametrize(
    ("broken", "seen"),
    [
        (Raises, ""),
        (Hoards, "260 bytes are held"),
        (LosesWhatIsSplit, "whole: "),
        (KeepsTheBuffer, ""),
        (Invents, "does not stand in"),
        (Impossible, ""),
        (Forgets, "16 bytes: 12 taken, 0 lost, 0 held"),
        (CountsTwice, ""),
    ],
)
def test_a_broken_framer_is_convicted(broken: type[Wrapped], seen: str) -> None:
    with pytest.raises((AssertionError, IndexError)) as conviction:
        check_framer(INPUT, broken, 259)
    assert seen in str(conviction.value)


def test_frames_behind_a_fault_are_convicted() -> None:
    class GoesOn(Wrapped):
        def feed(self, data: bytes | bytearray | memoryview) -> list[Frame]:
            return [Frame(1, b"\x07")] if self.fault else self.inner.feed(data)

    with pytest.raises(AssertionError, match="behind a fault"):
        check_framer(stream_input(b"GET / HTTP/1.1", (8,)), GoesOn, 259)


def decoder(
    pdu: bytes,
    parse: Callable[[bytes], Any] = PUBLIC.parse_request,
    decode: Callable[[bytes], Any] = PUBLIC.decode_request,
    predict: Callable[[bytes, int, int], int] = PUBLIC.predict_request,
) -> None:
    check_decoder(pdu, parse, decode, predict)


def test_a_broken_decoder_is_convicted() -> None:
    pdu = bytes.fromhex("0300000001")
    decoder(pdu)

    def other(data: bytes) -> Pdu:
        return ReadHoldingRegistersRequest(data[2], 2)

    def raises(data: bytes) -> Pdu:
        raise IndexError

    for broken in (other, raises):
        with pytest.raises((AssertionError, IndexError)):
            decoder(pdu, parse=broken)
        with pytest.raises((AssertionError, IndexError)):
            decoder(pdu, decode=broken)
    with pytest.raises(AssertionError):
        decoder(pdu, predict=lambda data, start, end: 6)
    with pytest.raises(AssertionError):
        decoder(pdu, predict=lambda data, start, end: 5 if end < 3 else -1)


@pytest.mark.parametrize("answer", ["0302000000", "04020000", "8401", "8305", "03", ""])
def test_a_wrong_answer_of_a_server_is_convicted(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Conversation().serve([READ])
    monkeypatch.setattr(LocalDevice, "answer_wire", lambda self, pdu: bytes.fromhex(answer))
    with pytest.raises(Exception, match=r"."):
        Conversation().serve([READ])


def test_a_failing_handler_and_a_wrong_address_are_convicted(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Bank, "read_wire", lambda *of: 1 / 0)
        with pytest.raises(AssertionError):
            Conversation(AllowAllSlowly()).serve([READ])
    conversation = Conversation()
    conversation.session.reply = lambda unit, pdu, transaction: MbapFramer().encode(unit, pdu, transaction ^ 1)
    with pytest.raises(ValueError, match="not enough values"):
        conversation.serve([READ])


def test_a_client_that_takes_a_strange_answer_is_convicted(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = bytes((1, 3)) + stream_input(bytes.fromhex("00010000000901030600010002000300"))
    client_session.check(answers)
    original = ClientSession._complete

    def careless(self: ClientSession, frame: Frame) -> Completion | None:
        completion = original(self, frame)
        return completion and Completion(completion.transaction ^ 1, completion.response, completion.error)

    monkeypatch.setattr(ClientSession, "_complete", careless)
    with pytest.raises(AssertionError):
        client_session.check(answers)


@pytest.mark.parametrize(
    "told",
    [
        Description(True, "mbap", "request", 2, 1, READ[7:], 3, "read holding registers", {}),
        Description(False, "mbap", "request"),
        Description(False, "mbap", "request", error="\n", fields={"a": b""}),
        Description(True, "rtu", "request", None, 1, READ[7:], 3, "read holding registers", {}),
    ],
)
def test_a_wrong_description_is_convicted(told: Description, monkeypatch: pytest.MonkeyPatch) -> None:
    describe.check(b"\0" + READ)
    monkeypatch.setattr(describe, "describe", lambda *of: told)
    with pytest.raises((AssertionError, TypeError)):
        describe.check(b"\0" + READ)
