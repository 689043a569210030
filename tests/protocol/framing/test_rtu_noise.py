from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everbus.protocol.framing.base import Frame, FramerStatistics
from everbus.protocol.framing.rtu import (
    MAX_ADU_BYTES,
    Direction,
    RtuFramer,
    only_silence_ends,
)
from everbus.protocol.pdu.base import NEED_MORE, UNPREDICTABLE
from tests.protocol.framing.frames import (
    ANSWER,
    DIRECTIONS,
    PDUS,
    READ,
    RULES,
    WRITE,
    adu,
    fed,
    frames_of,
    searched,
    singly,
    split,
)

# --- noise ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["request", "response"])
@given(data=st.data())
@settings(deadline=None, max_examples=150)
def test_the_frames_of_any_stream_are_those_that_a_plain_search_finds(
    direction: Direction, data: st.DataObject
) -> None:
    good = frames_of(PDUS[direction]).map(adu)
    # Bytes that begin many candidates, so that they overlap, wait and fail.
    noise = st.lists(st.sampled_from(b"\x00\x01\x03\x10\x11\x2b\x0e\x83\xab\xff"), max_size=40).map(bytes)
    stream = b"".join(data.draw(st.lists(good | noise | st.binary(max_size=20), max_size=12)))
    cuts = data.draw(st.lists(st.integers(0, 2000), max_size=12))
    expected = searched(stream, RULES[direction])
    for pieces in ([stream], split(stream, cuts), singly(stream)):
        framer = RtuFramer(direction)
        found = fed(framer, pieces)
        assert framer.pending <= MAX_ADU_BYTES
        assert found + framer.gap() == expected
        counted = framer.statistics()
        assert counted.frames == len(expected)
        assert counted.discarded_bytes == len(stream) - sum(len(frame.pdu) + 3 for frame in expected)


@pytest.mark.slow
@given(data=st.data())
@settings(deadline=None, max_examples=150)
def test_what_comes_out_and_what_is_counted_does_not_depend_on_the_split(data: st.DataObject) -> None:
    direction = data.draw(st.sampled_from(DIRECTIONS))
    good = frames_of(PDUS["request"] + PDUS["response"], 3).map(adu)
    stream = b"".join(data.draw(st.lists(good | st.binary(max_size=300), max_size=8)))
    results = []
    for pieces in ([stream], split(stream, data.draw(st.lists(st.integers(0, 2000)))), singly(stream)):
        framer = RtuFramer(direction)
        results.append((fed(framer, pieces), framer.pending, framer.gap(), framer.statistics()))
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize(
    ("name", "direction", "text", "frame"),
    [
        ("0x00 before an exception", "response", "00 048302D0F0", Frame(4, b"\x83\x02")),
        ("0x00 behind", "response", "048302D0F0 00", Frame(4, b"\x83\x02")),
        ("0x0000 behind", "response", "110306AE415652434049AD 0000", ANSWER),
        (
            "0x00 on both sides",
            "response",
            "00 01040443696978106E 00",
            Frame(1, bytes.fromhex("040443696978")),
        ),
        ("an echo of the request", "response", "1103006B00037687 110306AE415652434049AD", ANSWER),
        ("a bad CRC", "request", "1103006B00037688 1103006B00037687", READ),
        ("a swapped CRC", "request", "1103006B00038776 1103006B00037687", READ),
        ("a frame cut short", "request", "1103006B0003 1103006B00037687", READ),
        ("garbage", "request", "A55AFF00 1103006B00037687 A55AFF00", READ),
    ],
)
@pytest.mark.requirement("SL-2.5.1.1-resync", "SL-2.5.1.2-bad")
def test_the_good_frame_is_found_beside(name: str, direction: Direction, text: str, frame: Frame) -> None:
    for pieces in ([bytes.fromhex(text)], singly(bytes.fromhex(text))):
        framer = RtuFramer(direction)
        assert fed(framer, pieces) + framer.gap() == [frame]
        assert framer.statistics().discarded_bytes == len(bytes.fromhex(text)) - len(frame.pdu) - 3


def test_a_good_frame_is_found_behind_a_candidate_that_claims_it() -> None:
    # 10 .. F6 claims 255 bytes; the good frame is inside and comes out when the claim has failed.
    claim = bytes.fromhex("1110000000F7F6")
    framer = RtuFramer("request")
    assert framer.feed(claim + adu(READ)) == []
    assert framer.pending == len(claim) + 8
    assert framer.feed(b"\xaa" * 256) == [READ]


def test_the_search_for_objects_ends_at_the_largest_pdu() -> None:
    # 255 empty objects: the list would go on behind the 253 bytes that a PDU may have.
    endless = bytes.fromhex("012B0E01010000FF") + bytes(400)
    framer = RtuFramer("response")
    assert framer.feed(endless[:254]) == []
    assert framer.pending == 254
    assert framer.feed(endless[254:]) == []
    assert framer.pending < 254
    assert framer.feed(bytes(256) + adu(ANSWER)) == [ANSWER]


@pytest.mark.requirement("SL-2.5.1.1-size")
def test_noise_holds_at_most_one_frame() -> None:
    framer = RtuFramer("response")
    for _ in range(600):
        framer.feed(b"\x80\x01\x55")
        assert framer.pending <= MAX_ADU_BYTES
    assert framer.statistics().discarded_bytes + framer.pending == 1800


# --- silence ----------------------------------------------------------------------------------


def test_silence_without_anything_held_gives_nothing() -> None:
    framer = RtuFramer("request")
    assert framer.gap() == []
    assert framer.statistics() == FramerStatistics()


def test_silence_ends_the_wait_and_what_is_behind_is_found() -> None:
    for claim in ("1110000000F7F6", "0115F0", "01170001000100010001F0"):
        framer = RtuFramer("request")
        assert framer.feed(bytes.fromhex(claim) + adu(READ) + adu(WRITE) + b"\x11") == []
        assert framer.gap() == [READ, WRITE]
        assert (framer.pending, framer.gap()) == (0, [])


@pytest.mark.requirement("SL-2.5.1.1-silence")
def test_silence_forgets_the_first_half_of_a_frame() -> None:
    framer = RtuFramer("request")
    assert framer.feed(adu(READ)[:4]) == []
    assert framer.gap() == []
    assert framer.feed(adu(READ)[4:]) + framer.gap() == []
    assert framer.feed(adu(READ)) == [READ]


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("text", ["410102", "00", "7F", "2B0D001F10050000000008", "08000012345678", "41" * 253])
@pytest.mark.requirement("SL-2.5.1.1-silence")
def test_silence_alone_ends_what_nothing_else_does(direction: Direction, text: str) -> None:
    frame = Frame(1, bytes.fromhex(text))
    for pieces in ([adu(frame)], singly(adu(frame))):
        framer = RtuFramer(direction)
        assert fed(framer, pieces) == []
        assert framer.pending == len(adu(frame))
        assert framer.gap() == [frame]
        assert framer.statistics() == FramerStatistics(frames=1)
        assert framer.pending == 0


def test_a_frame_that_only_silence_ends_may_follow_another() -> None:
    framer = RtuFramer("request")
    custom = Frame(1, bytes.fromhex("410102"))
    assert framer.feed(adu(READ) + adu(custom)) == [READ]
    assert framer.gap() == [custom]


@pytest.mark.parametrize(
    ("direction", "data"),
    [
        ("request", adu(Frame(1, b"\x41\x01"))[:-1] + b"\x00"),
        ("request", adu(Frame(1, b"\x81\x01\x02"))),
        ("response", adu(Frame(1, bytes.fromhex("830200")))),
        ("request", adu(Frame(1, bytes.fromhex("0700")))),
        ("request", adu(Frame(1, bytes.fromhex("0800010000 0000")))),
        ("request", adu(Frame(1, bytes.fromhex("0800001234 56")))),
        ("request", adu(Frame(1, b"\x41" * 254))),
    ],
)
@pytest.mark.requirement("SL-2.5.1.1-silence")
def test_silence_makes_no_frame_of(direction: Direction, data: bytes) -> None:
    framer = RtuFramer(direction)
    assert framer.feed(data) + framer.gap() == []
    assert framer.statistics().discarded_bytes == len(data)


def test_a_good_crc_over_the_end_of_noise_is_no_frame() -> None:
    framer = RtuFramer("request")
    framer.feed(b"\x55" * 300)
    assert framer.pending < 4
    custom = adu(Frame(1, b"\x41\x01\x02"))
    assert framer.feed(custom) + framer.gap() == []
    assert framer.feed(custom) + framer.gap() == [Frame(1, b"\x41\x01\x02")]


@pytest.mark.parametrize(
    ("text", "predictions", "answer"),
    [
        ("4101", [UNPREDICTABLE], True),
        ("0801", [UNPREDICTABLE, UNPREDICTABLE], True),
        ("4101", [UNPREDICTABLE, 5], False),
        ("C101", [UNPREDICTABLE], False),
        ("08000012345678", [5], True),
        ("08000012345678", [7], False),
        ("0800001234", [5, 5], False),
        ("080000123456", [5], False),
        ("08000112345678", [5], False),
        ("0800", [NEED_MORE], False),
    ],
)
def test_only_silence_ends_a_pdu_whose_length_nothing_tells(text: str, predictions: list[int], answer: bool) -> None:
    assert only_silence_ends(bytes.fromhex(text), predictions) is answer
