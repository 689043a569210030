from __future__ import annotations

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
)
from everbus.protocol.pdu.base import CountedLength, LengthRule, Request, Response
from everbus.protocol.pdu.table import PUBLIC, FunctionTable
from tests.protocol.framing.frames import (
    PDUS,
    READ,
    WRITE,
    adu,
    fed,
    frames_of,
    singly,
    split,
)

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
