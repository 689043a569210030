from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everbus.errors import UsageError
from everbus.protocol.framing.ascii import LINE_FEED, MAX_ADU_CHARACTERS, AsciiFramer
from everbus.protocol.framing.base import Frame, FramerStatistics

READ = Frame(17, bytes.fromhex("03006B0003"))
TEXT = b":1103006B00037E\r\n"

frames = st.builds(Frame, st.integers(0, 255), st.binary(min_size=1, max_size=253), st.just(0))


def adu(frame: Frame) -> bytes:
    return AsciiFramer().encode(frame.unit, frame.pdu)


def fed(framer: AsciiFramer, pieces: list[bytes]) -> list[Frame]:
    return [frame for piece in pieces for frame in framer.feed(piece)]


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


def singly(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


# --- frames -----------------------------------------------------------------------------------


@pytest.mark.requirement("SL-2.3-frame", "SL-2.5.2-digits", "SL-2.5.2.1-begin-end")
def test_the_frame_of_the_specification_is_built_and_read() -> None:
    assert AsciiFramer().encode(17, READ.pdu) == TEXT
    assert AsciiFramer().feed(TEXT) == [READ]


@pytest.mark.requirement("SL-2.5.2.1-size")
def test_frames_have_9_to_513_characters() -> None:
    assert len(adu(Frame(1, b"\x07"))) == 9
    assert MAX_ADU_CHARACTERS == len(adu(Frame(1, bytes(253)))) == 513


@pytest.mark.parametrize("lenient", [False, True])
@given(sent=st.lists(frames, max_size=6), cuts=st.lists(st.integers(0, 3000), max_size=12))
@settings(deadline=None)
def test_frames_come_out_as_they_went_in_at_any_split(lenient: bool, sent: list[Frame], cuts: list[int]) -> None:
    framer = AsciiFramer(lenient=lenient)
    assert fed(framer, split(b"".join(map(adu, sent)), cuts)) == sent
    assert framer.statistics() == FramerStatistics(frames=len(sent))
    assert (framer.pending, framer.fault) == (0, None)


@given(frame=frames, cut=st.integers(0, 512))
def test_what_is_there_of_an_unfinished_frame_is_pending(frame: Frame, cut: int) -> None:
    data = adu(frame)
    cut = min(cut, len(data) - 1)
    framer = AsciiFramer()
    assert framer.feed(data[:cut]) == []
    assert framer.pending == cut
    assert framer.feed(data[cut:]) == [frame]
    assert framer.pending == 0


def test_what_is_kept_is_copied_because_the_buffer_is_used_again() -> None:
    buffer = bytearray(TEXT[:9])
    framer = AsciiFramer()
    with memoryview(buffer) as view:
        assert framer.feed(view) == []
    buffer[:] = bytes(9)
    with memoryview(bytearray(TEXT[9:] + TEXT)) as view:
        assert framer.feed(view) == [READ, READ]


# --- what is no frame --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("lower case", b":1103006b00037e\r\n"),
        ("an odd number of digits", b":1103006B00037\r\n"),
        ("not hexadecimal", b":1103006G00037E\r\n"),
        ("a space", b":1103 006B00037E\r\n"),
        ("nothing", b":\r\n"),
        ("unit and LRC alone", b":01FF\r\n"),
        ("CR without its LF", b":1103006B00037E\r:"),
        ("LF without its CR", b":1103006B00037E\n:"),
        ("CR inside", b":1103006B\r00037E\r\n"),
        ("bit 7 set inside", b":1103\xb06B00037E\r\n"),
    ],
)
@pytest.mark.requirement("SL-2.5.2-digits", "SL-2.5.2.1-begin-end")
def test_the_wrong_form_is_counted_and_the_next_frame_found(name: str, text: bytes) -> None:
    for pieces in ([text + TEXT], singly(text + TEXT)):
        framer = AsciiFramer()
        assert fed(framer, pieces) == [READ]
        lost = text.rstrip(b":")
        attempts = text.count(b":")
        assert framer.statistics().malformed == attempts
        assert framer.statistics().discarded_bytes == len(lost) + (attempts - 1)


@pytest.mark.requirement("SL-2.5.2.2-bad")
def test_a_wrong_lrc_is_counted_and_the_next_frame_found() -> None:
    for pieces in ([b":1103006B00037F\r\n" + TEXT], singly(b":1103006B00037F\r\n" + TEXT)):
        framer = AsciiFramer()
        assert fed(framer, pieces) == [READ]
        assert framer.statistics() == FramerStatistics(frames=1, checksum_errors=1, discarded_bytes=17)


@pytest.mark.requirement("SL-2.5.2.1-outside")
def test_what_comes_before_a_colon_is_ignored() -> None:
    framer = AsciiFramer()
    assert framer.feed(b"abc" + TEXT + b"\r\n\xba0103") == [READ]
    assert framer.pending == 0
    assert framer.statistics() == FramerStatistics(frames=1, discarded_bytes=3 + 7)


@pytest.mark.requirement("SL-2.5.2.1-colon")
def test_a_colon_begins_a_new_frame_wherever_it_comes() -> None:
    text = b":110300::1103006B00037E\r" + TEXT
    for pieces in ([text], singly(text)):
        framer = AsciiFramer()
        assert fed(framer, pieces) == [READ]
        assert framer.statistics() == FramerStatistics(frames=1, malformed=3, discarded_bytes=24)


@pytest.mark.requirement("SL-2.5.2.1-size")
def test_more_than_513_characters_are_given_up() -> None:
    text = b":" + b"0" * 512
    for pieces in ([text + b"\r\n" + TEXT], singly(text + b"\r\n" + TEXT)):
        framer = AsciiFramer()
        assert fed(framer, pieces) == [READ]
        assert framer.statistics() == FramerStatistics(frames=1, malformed=1, discarded_bytes=515)
    framer = AsciiFramer()
    assert framer.feed(text[:-1]) == []
    assert framer.pending == 512
    assert framer.feed(text[-1:]) == []
    assert framer.pending == 0


@pytest.mark.requirement("SL-2.5.2.1-pause")
def test_silence_drops_what_is_held() -> None:
    framer = AsciiFramer()
    assert framer.gap() == []
    assert framer.statistics() == FramerStatistics()
    framer.feed(TEXT[:7])
    assert framer.gap() == []
    assert framer.pending == 0
    assert framer.feed(TEXT[7:]) == []
    assert framer.feed(TEXT) == [READ]
    assert framer.statistics() == FramerStatistics(frames=1, malformed=1, discarded_bytes=17)


# --- lenient ----------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [b"\r\n", b"\r", b"\n", b"\n\r", b"\r\r\n"])
@pytest.mark.parametrize("digits", [b":1103006B00037E", b":1103006b00037e", b":1103006B00037e"])
def test_the_lenient_take_lower_case_and_half_an_end(digits: bytes, end: bytes) -> None:
    for pieces in ([(digits + end) * 3], singly((digits + end) * 3)):
        framer = AsciiFramer(lenient=True)
        assert fed(framer, pieces) == [READ] * 3
        assert framer.statistics() == FramerStatistics(frames=3)
        assert framer.pending == 0


def test_the_lenient_send_strictly() -> None:
    assert AsciiFramer(lenient=True).encode(17, READ.pdu) == TEXT


@pytest.mark.parametrize("text", [b":1103006G00037E\r\n", b":\r\n", b":" + b"0" * 511 + b"\r\n", b":" + b"0" * 512])
def test_the_lenient_take_nothing_else(text: bytes) -> None:
    framer = AsciiFramer(lenient=True)
    assert framer.feed(text + TEXT) == [READ]
    assert framer.statistics().malformed == 1


# --- delimiter --------------------------------------------------------------------------------


@pytest.mark.parametrize("lenient", [False, True])
@pytest.mark.requirement("SL-2.5.2.1-delimiter")
def test_another_delimiter_takes_the_place_of_lf(lenient: bool) -> None:
    framer = AsciiFramer(ord("!"), lenient)
    assert framer.delimiter == ord("!")
    text = framer.encode(17, READ.pdu)
    assert text == TEXT[:-1] + b"!"
    assert framer.feed(text + text) == [READ, READ]
    framer.delimiter = LINE_FEED
    assert framer.encode(17, READ.pdu) == TEXT
    assert framer.feed(TEXT) == [READ]


@pytest.mark.requirement("SL-2.5.2.1-delimiter")
def test_a_strict_framer_waits_for_its_own_delimiter() -> None:
    framer = AsciiFramer(ord("!"))
    assert framer.feed(TEXT) == []
    assert framer.pending == len(TEXT)


@pytest.mark.parametrize("delimiter", [-1, 256])
def test_a_delimiter_is_one_character(delimiter: int) -> None:
    with pytest.raises(UsageError, match=f"delimiter {delimiter} "):
        AsciiFramer(delimiter)


@pytest.mark.parametrize("character", list("09AFaf:"))
def test_a_delimiter_occurs_nowhere_else_in_a_frame(character: str) -> None:
    framer = AsciiFramer()
    with pytest.raises(UsageError, match="it cannot end them"):
        framer.delimiter = ord(character)
    assert framer.delimiter == LINE_FEED


# --- any stream -------------------------------------------------------------------------------


@pytest.mark.parametrize("lenient", [False, True])
@given(
    parts=st.lists(st.sampled_from([TEXT, TEXT[:-1], b":", b"\r", b"\n", b"\r\n", b"0A", b"x", b"0" * 600])),
    cuts=st.lists(st.integers(0, 2000), max_size=8),
)
@settings(deadline=None)
def test_what_comes_out_and_what_is_counted_does_not_depend_on_the_split(
    lenient: bool, parts: list[bytes], cuts: list[int]
) -> None:
    stream = b"".join(parts)
    results = []
    for pieces in ([stream], split(stream, cuts), singly(stream)):
        framer = AsciiFramer(lenient=lenient)
        results.append((fed(framer, pieces), framer.pending, framer.gap(), framer.statistics()))
        assert results[-1][1] < MAX_ADU_CHARACTERS
    assert results[0] == results[1] == results[2]
