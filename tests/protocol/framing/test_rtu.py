from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everbus.errors import UsageError
from everbus.protocol.framing.base import Frame, FramerStatistics
from everbus.protocol.framing.checksums import CRC_TABLE, crc16
from everbus.protocol.framing.rtu import (
    MAX_ADU_BYTES,
    MIN_ADU_BYTES,
    Direction,
    RtuFramer,
    _advance,
    only_silence_ends,
)
from everbus.protocol.pdu.base import NEED_MORE, UNPREDICTABLE, CountedLength, LengthRule, Request, Response
from everbus.protocol.pdu.table import PUBLIC, FunctionTable

DIRECTIONS: tuple[Direction, ...] = ("request", "response", "line")

READ = Frame(17, bytes.fromhex("03006B0003"))
ANSWER = Frame(17, bytes.fromhex("0306AE4156524340"))
WRITE = Frame(17, bytes.fromhex("0600010003"))
OURS = Frame(1, bytes.fromhex("0300000001"))
REFUSAL = Frame(17, bytes.fromhex("8302"))

Rule = Callable[[bytes, int, int], int]
RULES: dict[Direction, Rule] = {"request": PUBLIC.predict_request, "response": PUBLIC.predict_response}

PDUS: dict[Direction, list[bytes]] = {
    "request": [
        bytes.fromhex(text)
        for text in (
            "0100130013",
            "0200C40016",
            "03006B0003",
            "0400080001",
            "0500ACFF00",
            "0600010003",
            "07",
            "080000A537",
            "0B",
            "0C",
            "0F0013000A02CD01",
            "100001000204000A0102",
            "11",
            "140E0600040001000206000300090002",
            "150D0600040007000306AF04BE100D",
            "16000400F20025",
            "1700030006000E00030600FF00FF00FF",
            "1804DE",
            "2B0E0100",
        )
    ],
    "response": [
        bytes.fromhex(text)
        for text in (
            "0103CD6B05",
            "020101",
            "0306022B00000064",
            "0402000A",
            "0500ACFF00",
            "0600010003",
            "076D",
            "080000A537",
            "0BFFFF0108",
            "0C080000010801212000",
            "0F0013000A",
            "1000010002",
            "110212FF",
            "140C05060DFE0020050633CD0040",
            "150D0600040007000306AF04BE100D",
            "16000400F20025",
            "170400FE0ACD",
            "180006000201B81284",
            "2B0E01810001010006666F6F626172",
            "8302",
            "AB03",
            "ABFF00060DEC06020000",
        )
    ],
}
"""A PDU of each function code whose length can be predicted."""


def adu(frame: Frame) -> bytes:
    return RtuFramer("request").encode(frame.unit, frame.pdu)


def frames_of(pdus: list[bytes], last_unit: int = 255) -> st.SearchStrategy[Frame]:
    return st.builds(Frame, st.integers(0, last_unit), st.sampled_from(pdus), st.just(0))


def fed(framer: RtuFramer, pieces: list[bytes]) -> list[Frame]:
    return [frame for piece in pieces for frame in framer.feed(piece)]


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


def singly(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def good_total(data: bytes, at: int, rule: Rule, silent: bool) -> int | None:
    """Length of the good frame at a place, 0 if there is none, None if more bytes will tell; by computing."""
    length = rule(data, at + 1, min(len(data), at + 254))
    if length > 253 or length == UNPREDICTABLE or (length == NEED_MORE and len(data) >= at + 254):
        return 0
    if length == NEED_MORE or at + length + 3 > len(data):
        return 0 if silent else None
    return 0 if crc16(data[at : at + length + 3]) else length + 3


def searched(data: bytes, rule: Rule, silent: bool = False, at: int = 0) -> list[Frame]:
    """The frames of a stream that silence ends, by trying each place: first as they come, then at the end."""
    frames: list[Frame] = []
    start = at
    while at < len(data) - 1:
        total = good_total(data, at, rule, silent)
        if total is None:
            break
        if total:
            frames.append(Frame(data[at], data[at + 1 : at + total - 2]))
            start = at + total
        at += total or 1
    if silent:
        return frames
    rest = data[start:]
    if 4 <= len(rest) <= 256 and crc16(rest) == 0 and only_silence_ends(rest[1:-2], [rule(rest, 1, len(rest) - 2)]):
        return [*frames, Frame(rest[0], rest[1:-2])]
    return frames + searched(data, rule, True, at)


# --- frames -----------------------------------------------------------------------------------


@pytest.mark.requirement("SL-2.3-frame", "SL-2.5.1.2-order")
def test_the_frame_of_the_specification_is_built_and_read() -> None:
    assert RtuFramer("request").encode(2, b"\x07") == bytes.fromhex("02074112")
    assert RtuFramer("request").feed(bytes.fromhex("02074112")) == [Frame(2, b"\x07")]


@pytest.mark.requirement("AP-4.1-adu-size")
def test_frames_have_4_to_256_bytes() -> None:
    assert MIN_ADU_BYTES == len(adu(Frame(1, b"\x07"))) == 4
    assert MAX_ADU_BYTES == len(adu(Frame(1, bytes(253)))) == 256


@pytest.mark.parametrize("direction", ["request", "response"])
@pytest.mark.requirement("SL-2.5.1.1-gap-inside")
def test_every_function_code_is_read_whole_and_byte_by_byte(direction: Direction) -> None:
    sent = [Frame(17, pdu) for pdu in PDUS[direction]]
    stream = b"".join(map(adu, sent))
    for pieces in ([stream], singly(stream)):
        framer = RtuFramer(direction)
        assert fed(framer, pieces) == sent
        assert framer.statistics() == FramerStatistics(frames=len(sent))
        assert (framer.pending, framer.fault) == (0, None)


@pytest.mark.parametrize("direction", ["request", "response"])
@given(data=st.data())
@settings(deadline=None, max_examples=50)
def test_frames_come_out_as_they_went_in_at_any_split(direction: Direction, data: st.DataObject) -> None:
    sent = data.draw(st.lists(frames_of(PDUS[direction]), max_size=8))
    cuts = data.draw(st.lists(st.integers(0, 300), max_size=12))
    framer = RtuFramer(direction)
    assert fed(framer, split(b"".join(map(adu, sent)), cuts)) == sent
    assert framer.statistics() == FramerStatistics(frames=len(sent))
    assert framer.pending == 0


@pytest.mark.requirement("SL-2.5.1.1-size")
def test_the_largest_frame_is_read_and_one_byte_more_is_never_a_frame() -> None:
    largest = Frame(1, bytes.fromhex("15FB0600010000007A") + b"\x5a\xa5" * 122)
    framer = RtuFramer("request")
    assert fed(framer, singly(adu(largest))) == [largest]
    longer = adu(Frame(1, bytes.fromhex("100000007CF8") + bytes(248)))
    assert len(longer) == 257
    assert framer.feed(longer) + framer.gap() == []


def test_a_candidate_waits_although_a_shorter_run_has_a_good_crc() -> None:
    # The first six bytes pass the CRC, too (FluentModbus): the predicted length decides.
    data = bytes.fromhex("01040203017800")
    assert crc16(data[:6]) == 0
    framer = RtuFramer("response")
    assert framer.feed(data[:6]) == []
    assert framer.pending == 6
    assert framer.feed(data[6:]) == [Frame(1, bytes.fromhex("04020301"))]


def test_what_is_kept_is_copied_because_the_buffer_is_used_again() -> None:
    buffer = bytearray(adu(READ)[:5])
    framer = RtuFramer("request")
    with memoryview(buffer) as view:
        assert framer.feed(view) == []
    buffer[:] = bytes(5)
    with memoryview(bytearray(adu(READ)[5:] + adu(WRITE))) as view:
        assert framer.feed(view) == [READ, WRITE]


def test_a_direction_is_one_of_three() -> None:
    with pytest.raises(UsageError, match="'both' is none of request, response, line"):
        RtuFramer("both")  # type: ignore[arg-type]


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


# --- counters ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "statistics"),
    [
        ("1103006B00037688", FramerStatistics(checksum_errors=1, discarded_bytes=8)),
        ("1103006B0003", FramerStatistics(malformed=1, discarded_bytes=6)),
        ("00", FramerStatistics(malformed=1, discarded_bytes=1)),
        ("0141010200000000", FramerStatistics(malformed=1, discarded_bytes=8)),
        ("01100000007CF80000", FramerStatistics(malformed=1, discarded_bytes=9)),
        ("1103006B00037687 00", FramerStatistics(frames=1, malformed=1, discarded_bytes=1)),
        (
            "1103006B00037688 1103006B00037688 1103006B00037687 1103006B00037688",
            FramerStatistics(frames=1, checksum_errors=2, discarded_bytes=24),
        ),
    ],
)
def test_bytes_lost_between_two_good_frames_are_one_error(text: str, statistics: FramerStatistics) -> None:
    for pieces in ([bytes.fromhex(text)], singly(bytes.fromhex(text))):
        framer = RtuFramer("request")
        fed(framer, pieces)
        framer.gap()
        assert framer.statistics() == statistics


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


# --- a line that others share -----------------------------------------------------------------


@pytest.mark.requirement("SL-2.5.1.1-shared-line")
def test_requests_are_given_out_and_answers_followed() -> None:
    stream = adu(READ) + adu(ANSWER) + adu(OURS) + adu(READ) + adu(REFUSAL) + adu(OURS)
    for pieces in ([stream], singly(stream)):
        framer = RtuFramer("line")
        assert fed(framer, pieces) == [READ, OURS, READ, OURS]
        assert framer.pending == 0
        assert framer.statistics() == FramerStatistics(frames=4)


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


# --- custom function codes --------------------------------------------------------------------


def table_with(length: LengthRule | None) -> FunctionTable:
    class CustomResponse(Response):
        function_code: ClassVar[int] = 0x41

    class CustomRequest(Request[CustomResponse]):
        function_code: ClassVar[int] = 0x41
        response_type = CustomResponse

    CustomRequest.length = length
    return PUBLIC.extended(CustomRequest)


@pytest.mark.parametrize("size", [3, 253])
def test_a_custom_function_code_of_known_length_is_read_without_silence(size: int) -> None:
    frame = Frame(1, b"\x41" + bytes(size - 1))
    framer = RtuFramer("request", table_with(CountedLength(size)))
    assert framer.feed(b"\x55" + adu(frame) + adu(READ)) == [frame, READ]
    assert framer.statistics().discarded_bytes == 1


@pytest.mark.parametrize("rule", [CountedLength(254), None])
def test_a_custom_function_code_of_no_possible_length_is_not(rule: LengthRule | None) -> None:
    framer = RtuFramer("request", table_with(rule))
    assert framer.feed(adu(Frame(1, b"\x41" + bytes(253)))) == []


# --- the CRC of any run in two look-ups --------------------------------------------------------


@given(before=st.binary(max_size=300), run=st.binary(max_size=256), start=st.integers(0, 0xFFFF))
def test_the_crc_of_any_run_follows_from_the_states_at_its_ends(before: bytes, run: bytes, start: int) -> None:
    state = crc16(before, start)
    end = crc16(run, state)
    low, high = _advance(len(run))
    assert crc16(run) == end ^ low[state & 0xFF] ^ high[state >> 8]


def test_the_table_of_one_zero_byte_is_the_crc_table() -> None:
    low, high = _advance(1)
    assert [entry ^ low[0] for entry in low] == list(CRC_TABLE)
    assert list(high) == list(range(256))
