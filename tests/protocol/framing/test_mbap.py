from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everbus.protocol.framing.base import Frame, FramerStatistics
from everbus.protocol.framing.mbap import HEADER_BYTES, MAX_ADU_BYTES, MbapFramer

frames = st.builds(
    Frame,
    unit=st.integers(0, 255),
    pdu=st.binary(min_size=1, max_size=253),
    transaction=st.integers(0, 65535),
)


def encoded(frame: Frame) -> bytes:
    return MbapFramer().encode(frame.unit, frame.pdu, frame.transaction)


def fed(framer: MbapFramer, pieces: list[bytes]) -> list[Frame]:
    return [frame for piece in pieces for frame in framer.feed(piece)]


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


def fault_of(data: bytes) -> tuple[str, str]:
    framer = MbapFramer()
    assert framer.feed(data) == []
    assert framer.fault is not None
    return framer.fault.reason, str(framer.fault)


# --- frames -----------------------------------------------------------------------------------


@pytest.mark.requirement("TG-3.1.2-adu", "TG-3.1.3-header", "TG-3.1.3-protocol")
def test_the_frame_of_the_guide_is_built_and_read() -> None:
    adu = bytes.fromhex("1501 0000 0006 FF 0300040001")
    assert MbapFramer().encode(0xFF, bytes.fromhex("0300040001"), 0x1501) == adu
    assert MbapFramer().feed(adu) == [Frame(0xFF, bytes.fromhex("0300040001"), 0x1501)]


def test_a_frame_without_a_transaction_has_the_id_0() -> None:
    assert MbapFramer().encode(1, b"\x07") == bytes.fromhex("0000 0000 0002 01 07")


def test_a_new_framer_holds_nothing() -> None:
    framer = MbapFramer()
    assert (framer.pending, framer.fault, framer.statistics()) == (0, None, FramerStatistics())


@pytest.mark.requirement("AP-4.1-adu-size")
def test_the_largest_frame_has_260_bytes() -> None:
    assert (HEADER_BYTES, MAX_ADU_BYTES) == (7, 260)
    assert len(MbapFramer().encode(1, bytes(253))) == MAX_ADU_BYTES


@pytest.mark.requirement("TG-3.1.3-length")
def test_every_length_of_2_to_254_is_a_frame() -> None:
    framer = MbapFramer()
    for length in range(2, 255):
        adu = b"\x00\x09\x00\x00" + length.to_bytes(2, "big") + b"\x01" + bytes(length - 1)
        assert framer.feed(adu) == [Frame(1, bytes(length - 1), 9)]
        assert (framer.pending, framer.fault) == (0, None)


@given(sent=st.lists(frames, max_size=8), cuts=st.lists(st.integers(0, 2100), max_size=12))
@settings(deadline=None)
@pytest.mark.requirement("TG-3.1.2-stream")
def test_frames_come_out_as_they_went_in_at_any_split(sent: list[Frame], cuts: list[int]) -> None:
    framer = MbapFramer()
    assert fed(framer, split(b"".join(map(encoded, sent)), cuts)) == sent
    assert framer.statistics() == FramerStatistics(frames=len(sent))
    assert (framer.pending, framer.fault) == (0, None)


@pytest.mark.requirement("TG-3.1.2-stream")
def test_no_frame_of_one_segment_is_lost() -> None:
    # V22
    framer = MbapFramer()
    for count in range(1, 65):
        sent = [Frame(number % 256, bytes((3, 0, 0, 0, number)), 65535 - number) for number in range(count)]
        assert framer.feed(b"".join(map(encoded, sent))) == sent


@given(frame=frames, cut=st.integers(0, 259))
@settings(deadline=None)
def test_what_is_there_of_an_unfinished_frame_is_pending(frame: Frame, cut: int) -> None:
    data = encoded(frame)
    cut = min(cut, len(data) - 1)
    framer = MbapFramer()
    assert framer.feed(data[:cut]) == []
    assert framer.pending == cut
    assert framer.feed(data[cut:]) == [frame]
    assert framer.pending == 0


def test_what_is_kept_is_copied_because_the_buffer_is_used_again() -> None:
    adu = encoded(Frame(1, b"\x03\x00\x00\x00\x01", 7))
    buffer = bytearray(adu[:9])
    framer = MbapFramer()
    with memoryview(buffer) as view:
        assert framer.feed(view) == []
    buffer[:] = bytes(9)
    with memoryview(bytearray(adu[9:] + adu)) as view:
        assert framer.feed(view) == [Frame(1, b"\x03\x00\x00\x00\x01", 7)] * 2


def test_a_frame_given_out_does_not_change_with_the_buffer() -> None:
    buffer = bytearray(encoded(Frame(1, b"\x03\x00\x00\x00\x01", 7)))
    (frame,) = MbapFramer().feed(buffer)
    buffer[:] = bytes(len(buffer))
    assert frame.pdu == b"\x03\x00\x00\x00\x01"


def test_silence_changes_nothing() -> None:
    framer = MbapFramer()
    adu = encoded(Frame(1, b"\x07", 7))
    framer.feed(adu[:5])
    assert framer.gap() == []
    assert framer.feed(adu[5:]) == [Frame(1, b"\x07", 7)]


# --- the length alone is the boundary ----------------------------------------------------------


@pytest.mark.parametrize("cut", range(13))
@pytest.mark.requirement("TG-3.1.2-boundary")
def test_a_short_length_ends_the_frame_and_the_rest_is_never_part_of_it(cut: int) -> None:
    # V06: length 3 with six bytes behind: the frame has a PDU of two bytes, whatever its code needs.
    data = bytes.fromhex("0001 0000 0003 01 0600 000A0000 0000")[:13]
    framer = MbapFramer()
    assert fed(framer, [data[:cut], data[cut:]]) == [Frame(1, b"\x06\x00", 1)]
    assert framer.fault is None
    assert framer.pending == 4


@pytest.mark.requirement("TG-3.1.2-boundary")
def test_a_long_length_takes_the_bytes_of_the_next_frame_and_no_more() -> None:
    first, second = encoded(Frame(1, b"\x07", 1)), encoded(Frame(1, b"\x0b", 2))
    longer = first[:4] + (2 + len(second)).to_bytes(2, "big") + first[6:]
    assert MbapFramer().feed(longer + second + first) == [Frame(1, b"\x07" + second, 1), Frame(1, b"\x07", 1)]


# --- streams that are not Modbus ---------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 255, 256, 65535])
@pytest.mark.requirement("TG-3.1.3-length")
def test_a_length_outside_2_to_254_is_a_fault(length: int) -> None:
    reason, text = fault_of(b"\x00\x01\x00\x00" + length.to_bytes(2, "big"))
    assert reason == "length"
    assert text.startswith(f"length {length} is outside 2..254 (first bytes 00 01 00 00")


@pytest.mark.parametrize("protocol", [1, 0x0100, 0xFFFF])
@pytest.mark.requirement("TG-4.4.2.1-protocol")
def test_a_protocol_id_that_is_not_zero_is_a_fault(protocol: int) -> None:
    reason, text = fault_of(b"\x00\x00" + protocol.to_bytes(2, "big") + b"\x00\x06")
    assert reason == "protocol_id"
    assert f"protocol id {protocol:04X} is not 0000" in text


def test_a_fault_is_known_before_the_unit_comes_and_not_before_the_length_does() -> None:
    data = b"\x00\x01\x00\x00\x00\x01"
    framer = MbapFramer()
    assert [(framer.feed(data[:5]), framer.fault), framer.pending] == [([], None), 5]
    framer.feed(data[5:])
    assert framer.fault is not None


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00", "a TLS handshake"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "an SSH banner"),
        (b"GET / HTTP/1.1\r\n", "an HTTP request"),
        (b"POST /x HTTP/1.1\r\n", "an HTTP request"),
        (b"HEAD / HTTP/1.1\r\n", "an HTTP request"),
        (b"PUT /x HTTP/1.1\r\n", "an HTTP request"),
        (b"OPTIONS * HTTP/1.1\r\n", "an HTTP request"),
        (b":010300000001FB\r\n", "a Modbus ASCII frame"),
        (bytes.fromhex("010300010001D5CA"), "a Modbus RTU frame"),
    ],
)
def test_a_fault_says_what_it_looks_like(data: bytes, hint: str) -> None:
    reason, text = fault_of(data)
    assert reason == "protocol_id"
    assert f"; it looks like {hint} (first bytes {data[:8].hex(' ')})" in text


@pytest.mark.parametrize(
    "data", [bytes.fromhex("0000FFFF0006"), bytes.fromhex("00190001000601"), b"\x00\x01\x00\x00\x00\x00"]
)
def test_a_fault_that_looks_like_nothing_known_has_no_hint(data: bytes) -> None:
    assert "looks like" not in fault_of(data)[1]


@given(
    sent=st.lists(frames, max_size=4),
    cuts=st.lists(st.integers(0, 1100), max_size=8),
    bad=st.integers(1, 65535),
)
@settings(deadline=None)
def test_frames_before_a_fault_are_given_out_and_nothing_after_it(sent: list[Frame], cuts: list[int], bad: int) -> None:
    framer = MbapFramer()
    after = encoded(Frame(1, b"\x07", 7))
    foreign = b"\x00\x00" + bad.to_bytes(2, "big") + b"\x00\x06"
    assert fed(framer, [*split(b"".join(map(encoded, sent)) + foreign, cuts), after]) == sent
    assert framer.fault is not None
    assert framer.pending == 0
    statistics = framer.statistics()
    assert (statistics.frames, statistics.malformed) == (len(sent), 1)


@given(pieces=st.lists(st.binary(max_size=300), max_size=8))
@settings(deadline=None)
def test_any_bytes_give_frames_or_a_fault_and_never_hold_more_than_one_frame(pieces: list[bytes]) -> None:
    framer = MbapFramer()
    for piece in pieces:
        for frame in framer.feed(piece):
            assert 1 <= len(frame.pdu) <= 253
        assert framer.pending < MAX_ADU_BYTES
