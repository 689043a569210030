from __future__ import annotations

import pytest

from everbus.protocol.framing.base import Frame, FramerStatistics
from everbus.protocol.framing.checksums import crc16
from everbus.protocol.framing.rtu import (
    Direction,
    RtuFramer,
)
from everbus.protocol.pdu.table import FunctionTable
from tests.protocol.framing.frames import (
    ANSWER,
    DIRECTIONS,
    OURS,
    PDUS,
    READ,
    REFUSAL,
    WRITE,
    adu,
    fed,
    singly,
)

# --- a line that others share -----------------------------------------------------------------


@pytest.mark.requirement("SL-2.5.1.1-shared-line")
def test_requests_are_given_out_and_answers_followed() -> None:
    stream = adu(READ) + adu(ANSWER) + adu(OURS) + adu(READ) + adu(REFUSAL) + adu(OURS)
    for pieces in ([stream], singly(stream)):
        framer = RtuFramer("line")
        assert fed(framer, pieces) == [READ, OURS, READ, OURS]
        assert framer.pending == 0
        assert framer.statistics() == FramerStatistics(frames=4, answers=2)


@pytest.mark.parametrize("pdu", [pdu for pdu in PDUS["request"] if pdu in PDUS["response"]])
@pytest.mark.requirement("SL-2.5.1.1-shared-line")
def test_an_echo_is_the_answer_to_the_request_before_it(pdu: bytes) -> None:
    framer = RtuFramer("line")
    request = Frame(17, pdu)
    assert framer.feed(adu(request) * 2 + adu(OURS)) == [request, OURS]
    assert framer.feed(adu(request) + adu(REFUSAL) + adu(request)) == [request, request]


def test_an_echo_from_another_unit_is_a_request() -> None:
    framer = RtuFramer("line")
    other = Frame(18, WRITE.pdu)
    assert framer.feed(adu(WRITE) + adu(other)) == [WRITE, other]
    assert framer.feed(adu(other)) == []


@pytest.mark.requirement("SL-2.5.1.1-shared-line")
def test_a_broadcast_has_no_answer() -> None:
    framer = RtuFramer("line")
    broadcast = Frame(0, WRITE.pdu)
    assert framer.feed(adu(broadcast) * 3) == [broadcast] * 3


def test_silence_means_that_nobody_answered() -> None:
    framer = RtuFramer("line")
    assert framer.feed(adu(WRITE)) == [WRITE]
    assert framer.gap() == []
    assert framer.feed(adu(WRITE)) == [WRITE]


def test_what_was_lost_may_have_been_the_answer() -> None:
    framer = RtuFramer("line")
    assert framer.feed(adu(WRITE) + b"\x55" + adu(WRITE)) + framer.gap() == [WRITE, WRITE]


def test_our_own_answer_is_not_waited_for() -> None:
    framer = RtuFramer("line")
    for _ in range(3):
        assert framer.feed(adu(WRITE)) == [WRITE]
        framer.encode(WRITE.unit, WRITE.pdu)


def test_of_two_frames_at_one_place_the_shorter_is_taken() -> None:
    # With the 0x00 behind it the answer is as long as a request, and the CRC is still good.
    answer = Frame(17, bytes.fromhex("0102CD6B"))
    assert crc16(adu(answer) + b"\x00") == 0
    framer = RtuFramer("line")
    assert framer.feed(adu(answer) + b"\x00" + adu(OURS)) == [OURS]


@pytest.mark.parametrize(("before", "given"), [([], True), ([Frame(17, bytes.fromhex("0100130013"))], False)])
def test_what_may_be_both_is_a_request_unless_an_answer_is_due(before: list[Frame], given: bool) -> None:
    both = Frame(17, bytes.fromhex("0103CD6B05"))
    framer = RtuFramer("line")
    stream = b"".join(map(adu, [*before, both]))
    assert (both in framer.feed(stream)) is given


def test_a_request_is_taken_at_once_although_it_may_begin_a_longer_answer() -> None:
    # As an answer it would have 0xC8 data bytes.
    framer = RtuFramer("line")
    request = Frame(1, bytes.fromhex("03C8000001"))
    assert framer.feed(adu(request)) == [request]


# --- a request that comes whole and alone is not searched for -----------------------------------


def begins_with_an_answer(code: int, count: int) -> bytes:
    """A good request whose first bytes are a good answer too."""
    head = bytes((17, code, count)) + b"\x5a" * count
    return adu(Frame(17, (head + crc16(head).to_bytes(2, "little") + bytes(3))[1:6]))


ALONE = [
    *(
        adu(Frame(unit, bytes((code, at)) + b"\x00\x00\x01"))
        for unit in (0, 1, 17)
        for code in range(8)
        for at in range(6)
    ),
    *(begins_with_an_answer(code, count) for code in (1, 2, 3, 4) for count in (0, 1)),
    adu(READ)[:-1] + b"\0",
    bytes(8),
]


@pytest.mark.parametrize("before", [b"", adu(WRITE), adu(WRITE) * 2, adu(READ)[:3], b"\x55" * 9])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_it_is_what_a_search_finds(direction: Direction, before: bytes) -> None:
    for alone in ALONE:
        whole, piecemeal = RtuFramer(direction), RtuFramer(direction)
        given = fed(whole, [before, alone, adu(OURS)]) + whole.gap()
        assert given == fed(piecemeal, singly(before + alone + adu(OURS))) + piecemeal.gap(), alone.hex(" ")
        assert whole.statistics() == piecemeal.statistics()


def test_it_is_none_by_a_table_that_does_not_know_it() -> None:
    assert RtuFramer("request", FunctionTable.of()).feed(adu(READ)) == []
