from __future__ import annotations

import json
from typing import Any, ClassVar, Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everbus.errors import UsageError
from everbus.protocol.describe import Description, Direction, Framing, describe
from everbus.protocol.framing.ascii import AsciiFramer
from everbus.protocol.framing.mbap import MbapFramer
from everbus.protocol.framing.rtu import RtuFramer
from everbus.protocol.pdu.base import Request, Response
from everbus.protocol.pdu.table import PUBLIC
from tests.vectors import Vector, each, of_kind

ADUS, PDUS = of_kind("adu"), of_kind("pdu")

NEED_A_DEVICE = {
    "fc02_range",
    "fc03_spec_96_5",
    "fc05_addr",
    "fc06_addr",
    "fc10_range",
    "fc16_addr",
    "fc18_32_entries",
    "fc2B0E_individual_unknown",
}
"""Well formed and legal: only a device without these items refuses them."""

VALID_AS_ANOTHER = {"rtu_mbap_on_serial", "mbap_rtu_on_tcp", "mbap_rtu_on_tcp2"}
"""Frames of one framing on a port of another: read by themselves they are good."""

UNDECIDABLE = {"fc00_invalid", "fc07_trailing", "fc08_01_bad_data", "fc11_trailing"}
"""Bare PDUs that by themselves are half a header, or a good response."""

WRONG_COUNT = "; the CRC over all of them is right: the sender counts wrong"
READ = bytes.fromhex("03006B0003")


def direction_of(vector: Vector) -> Direction:
    return "request" if vector["direction"] == "request" else "response"


def error_of(text: str, framing: Framing, direction: Direction = "request") -> str:
    told = describe(bytes.fromhex(text), framing, direction)
    assert not told.valid
    assert told.error is not None
    return told.error


# --- the vectors ------------------------------------------------------------------------------


@each(ADUS)
def test_a_frame_is_valid_if_it_is_exactly_one(vector: Vector) -> None:
    told = describe(bytes.fromhex(vector["adu_hex"]), vector["framing"], direction_of(vector))
    assert (told.valid, told.framing, told.direction) == (vector["valid"], vector["framing"], direction_of(vector))
    assert (told.error is None) is vector["valid"]
    if vector["valid"]:
        assert told.pdu == bytes.fromhex(vector["pdu_hex"])
        assert (told.unit, told.transaction) == (vector["unit"], vector["transaction"])


@each(ADUS)
def test_the_framing_is_found(vector: Vector) -> None:
    told = describe(bytes.fromhex(vector["adu_hex"]))
    if vector["name"] in VALID_AS_ANOTHER:
        assert told.valid
        assert told.framing != vector["framing"]
        return
    assert told.valid is vector["valid"]
    if vector["valid"]:
        assert told.framing == vector["framing"]


@each(PDUS)
def test_a_pdu_has_the_fields_of_its_vector(vector: Vector) -> None:
    told = describe(bytes.fromhex(vector["pdu_hex"]), "pdu", direction_of(vector))
    assert told.valid is (vector["valid"] or vector["name"] in NEED_A_DEVICE)
    assert told.function == vector["function_code"]
    fields = dict(told.fields or {})
    wanted = dict(vector["fields"])
    # How many bits count is in the request; the test of the vectors looks at them.
    wanted.pop("quantity_requested", None)
    if "bits" in wanted:
        fields["bits"] = fields["bits"][: len(wanted["bits"])]  # type: ignore[index]
    assert {name: fields.get(name) for name in wanted} == wanted


@each(PDUS)
def test_a_bare_pdu_is_found(vector: Vector) -> None:
    told = describe(bytes.fromhex(vector["pdu_hex"]))
    if vector["name"] in UNDECIDABLE:
        return
    assert told.valid is (vector["valid"] or vector["name"] in NEED_A_DEVICE)
    if told.valid:
        assert told.framing == "pdu"


# --- directions -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "direction"),
    [
        ("0600010003", "request"),
        ("03006B0003", "request"),
        ("0306022B00000064", "response"),
        ("8302", "response"),
        ("C101", "response"),
        ("410102", "request"),
        # As a request it would ask for 27397 coils.
        ("0103CD6B05", "response"),
        ("0100000000", "request"),
    ],
)
def test_the_direction_is_the_one_that_fits_or_a_request(text: str, direction: Direction) -> None:
    assert describe(bytes.fromhex(text), "pdu").direction == direction


def test_without_a_pdu_no_direction_is_claimed() -> None:
    assert describe(b"\x01\x03", "rtu").direction is None
    assert describe(b"\x01\x03", "rtu", "response").direction == "response"


@pytest.mark.parametrize("framing", ["pdu", "mbap", "rtu", "ascii"])
def test_a_request_has_no_exception_bit(framing: Framing) -> None:
    frame = {
        "pdu": b"\x83\x02",
        "mbap": MbapFramer().encode(1, b"\x83\x02"),
        "rtu": RtuFramer("response").encode(1, b"\x83\x02"),
        "ascii": AsciiFramer().encode(1, b"\x83\x02"),
    }[framing]
    told = describe(frame, framing, "request")
    assert told.error == "function code 83 is that of an exception response; a request has 01..7F"
    assert describe(frame, framing).valid


# --- illegal, but with structure ---------------------------------------------------------------


def test_what_an_illegal_pdu_says_is_shown() -> None:
    told = describe(bytes.fromhex("0100000000"), "pdu", "request")
    assert (told.fields, told.error) == (
        {"address": 0, "quantity": 0},
        "read coils: quantity 0 is outside 1..2000",
    )


def test_a_pdu_without_structure_is_shown_as_it_is() -> None:
    told = describe(bytes.fromhex("01000000"), "pdu", "request")
    assert (told.fields, told.name) == ({"raw": "01000000"}, "read coils")
    assert told.error == "read coils: it has 5 bytes, this one 4"


@pytest.mark.parametrize("size", [0, 254])
def test_a_pdu_has_1_to_253_bytes(size: int) -> None:
    assert error_of("03" * size, "pdu") == f"a PDU has 1..253 bytes, this one {size}"


# --- function codes outside the table ----------------------------------------------------------


@pytest.mark.parametrize("direction", ["request", "response"])
def test_a_length_that_is_told_makes_a_custom_function_code_well_formed(direction: Direction) -> None:
    pdu = b"\x41\x01\x02"
    for frame, framing in (
        (pdu, "pdu"),
        (MbapFramer().encode(1, pdu, 7), "mbap"),
        (AsciiFramer().encode(1, pdu), "ascii"),
    ):
        told = describe(frame, framing, direction)  # type: ignore[arg-type]
        assert (told.valid, told.pdu, told.fields, told.error) == (True, pdu, {"raw": "410102"}, None)
        assert (told.function, told.name) == (0x41, "function 41")


def test_on_rtu_nothing_tells_its_length() -> None:
    told = describe(bytes.fromhex("01410102D19D"), "rtu", "request")
    assert (told.valid, told.unit, told.fields) == (False, 1, {"raw": "410102"})
    assert told.error == (
        "byte 1: function code 41 is not known, so silence alone would end its frame; the CRC over all 6 bytes is right"
    )
    assert error_of("01410102D19E", "rtu") == "byte 4: CRC D19E is wrong, D19D would be right"


@pytest.mark.parametrize("text", ["2B0D001F10050000000008", "08000012345678"])
def test_on_rtu_a_known_function_code_is_valid_although_only_silence_ends_it(text: str) -> None:
    frame = RtuFramer("request").encode(1, bytes.fromhex(text))
    assert describe(frame, "rtu", "request").valid
    assert describe(frame).framing == "rtu"
    assert describe(frame[:-1] + b"\x00", "rtu").error is not None


def test_a_table_with_the_function_code_reads_it() -> None:
    class TwoBytes(Response):
        function_code: ClassVar[int] = 0x41

    class Custom(Request[TwoBytes]):
        function_code: ClassVar[int] = 0x41
        response_type = TwoBytes

        @classmethod
        def parse(cls, pdu: bytes) -> Self:
            return cls()

        def fields(self) -> dict[str, object]:
            return {"text": "a\nb'c"}

    told = describe(b"\x41\x01", "pdu", "request", PUBLIC.extended(Custom))
    assert told.fields == {"text": "a\nb'c"}
    assert told.summary() == r"pdu request: function 41 text=a\nb'c"


def test_any_bytes_are_some_custom_pdu_so_a_longer_one_is_not_guessed() -> None:
    assert describe(b"\x41\x01\x02").valid
    told = describe(b"GET / HTTP/1.1\r\n")
    assert (told.valid, told.framing) == (False, "mbap")
    assert "it looks like an HTTP request" in str(told.error)
    assert not describe(b"\x00").valid


# --- what is wrong, and where ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "cut off: the header has 7 bytes, 0 came"),
        ("000100000006", "cut off: the header has 7 bytes, 6 came"),
        ("000100000006FF02010200", "cut off: the length at byte 4 makes 12 bytes, 11 came"),
        ("0007CAFE00012A", "byte 2: protocol id CAFE is not 0000;"),
        ("0007000000002A", "byte 4: length 0 is outside 2..254"),
        ("000100000006010300000001 0D", "byte 12: a frame ends before it, 1 more of 13 bytes follow"),
        ("00010000000B011000000001021234AABB", "write multiple registers: the byte count does not fit"),
    ],
)
def test_mbap(text: str, error: str) -> None:
    assert error_of(text, "mbap").startswith(error)


@pytest.mark.parametrize(
    ("text", "direction", "error"),
    [
        ("118304", "response", "an RTU frame has 4..256 bytes, 3 came"),
        ("00" * 257, "request", "an RTU frame has 4..256 bytes, 257 came"),
        ("1103006B00037688", "request", "byte 6: CRC 7688 is wrong, 7687 would be right"),
        ("1103006B00038776", "request", "byte 6: CRC 8776 is wrong, 7687 would be right: its bytes are swapped"),
        ("1103006B000376", "request", "cut off: the read holding registers request has 8 bytes, 7 came"),
        ("0110000000", "request", "cut off: the write multiple registers request has more bytes, 5 came"),
        ("048302D0F000", "response", "byte 5: a frame ends before it, 1 more of 6 bytes follow"),
        (
            "118302C13500",
            "response",
            "byte 5: the read holding registers exception ends before it, 1 more of 6 bytes follow",
        ),
        (
            "01830200F150",
            "response",
            "byte 5: the read holding registers exception ends before it, 1 more of 6 bytes follow" + WRONG_COUNT,
        ),
        (
            "0103060001000253F2",
            "response",
            "cut off: the read holding registers response has 11 bytes, 9 came" + WRONG_COUNT,
        ),
        ("010303000102C5DF", "response", "read holding registers: byte count 3 is odd"),
    ],
)
def test_rtu(text: str, direction: Direction, error: str) -> None:
    assert error_of(text, "rtu", direction) == error


def test_what_a_frame_with_a_bad_checksum_would_say_is_shown() -> None:
    for frame, framing in ((bytes.fromhex("1103006B00037688"), "rtu"), (b":1103006B00037F\r\n", "ascii")):
        told = describe(frame)
        assert (told.valid, told.framing, told.unit, told.pdu) == (False, framing, 17, READ)
        assert told.fields == {"address": 107, "quantity": 3}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "cut off: there is nothing"),
        ("1103006B00037E\r\n", "byte 0: 31 is not the colon that begins a frame"),
        (
            "\xba0107F8\r\n",
            "byte 0: BA is not the colon that begins a frame: bit 7 is set, the port is not on 7 data bits",
        ),
        (":0107F8", "cut off: CR and LF are missing at the end"),
        (":0107F8\n", "byte 7: LF without the CR before it"),
        (":0107F8\r", "byte 7: CR without the LF behind it"),
        (":0107f8\r\n", "byte 5: 'f' is lower case"),
        (":0107G8\r\n", "byte 5: 'G' is not a hexadecimal digit"),
        (":0107\xf88\r\n", r"byte 5: '\xf8' is not a hexadecimal digit"),
        (":01:0107F8\r\n", "byte 3: a colon begins a new frame"),
        (":0107F\r\n", "byte 6: 5 digits are not whole bytes"),
        (":01FF\r\n", "byte 5: unit, function code and LRC have 6 digits, here are 4"),
        (":" + "0" * 512 + "\r\n", "byte 513: a frame has at most 513 characters"),
        (":0107F8\r\n:0107F8\r\n", "byte 9: a frame ends before it, 9 more of 18 bytes follow"),
        (":0107F9\r\n", "byte 5: LRC F9 is wrong, F8 would be right"),
    ],
)
def test_ascii(text: str, error: str) -> None:
    assert error_of(text.encode("latin-1").hex(), "ascii") == error


@pytest.mark.parametrize(
    ("data", "framing"),
    [
        (b":0107F8", "ascii"),
        (b":\r\n", "ascii"),
        (bytes.fromhex("3A03006B0003") + b"\x00\x00", "rtu"),
        (bytes.fromhex("00010000000611030000"), "mbap"),
        (bytes.fromhex("0001CAFE0006110300000001"), "mbap"),
        (bytes.fromhex("110300000001FFFF"), "rtu"),
        (bytes.fromhex("1103006B0003"), "rtu"),
        (bytes.fromhex("01FFFF0002"), "pdu"),
        (b"", "mbap"),
    ],
)
def test_of_what_is_not_valid_the_likeliest_framing_is_told(data: bytes, framing: Framing) -> None:
    told = describe(data)
    assert (told.valid, told.framing) == (False, framing)


# --- usage ------------------------------------------------------------------------------------


def test_framing_and_direction_are_known_words() -> None:
    with pytest.raises(UsageError, match="framing 'udp' is none of auto, ascii, mbap, rtu, pdu"):
        describe(READ, "udp")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="direction 'line' is none of auto, request, response"):
        describe(READ, "pdu", "line")  # type: ignore[arg-type]


def test_any_buffer_is_read() -> None:
    assert describe(memoryview(bytearray(READ))) == describe(bytearray(READ)) == describe(READ)


@given(
    data=st.binary(max_size=300) | st.builds(lambda text: b":" + text, st.text(":0AF\r\n ").map(str.encode)),
    framing=st.sampled_from(["auto", "pdu", "mbap", "rtu", "ascii"]),
    direction=st.sampled_from(["auto", "request", "response"]),
)
@settings(deadline=None)
def test_any_bytes_are_described(data: bytes, framing: Any, direction: Any) -> None:
    told = describe(data, framing, direction)
    assert told.valid is (told.error is None)
    assert (told.fields is None) is (told.pdu is None)
    assert framing in ("auto", told.framing)
    assert direction in ("auto", told.direction)
    assert len(told.summary(80)) <= 80
    assert json.loads(json.dumps(told.as_dict()))["valid"] is told.valid


@given(st.text(":0123456789ABCDEFa\r\n", max_size=30).map(str.encode))
def test_an_ascii_frame_is_good_exactly_if_the_framer_takes_all_of_it(text: bytes) -> None:
    framer = AsciiFramer()
    frames = framer.feed(b":" + text)
    alone = len(frames) == 1 and not framer.pending and not framer.statistics().discarded_bytes
    told = describe(b":" + text, "ascii")
    checked = told.pdu is not None and "LRC" not in str(told.error)
    assert checked is alone


# --- for logs and machines --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "summary"),
    [
        (
            "150100000006FF0300040001",
            "mbap request transaction 5377 unit 255: read holding registers address=4 quantity=1",
        ),
        ("118302C134", "rtu response unit 17: exception 02 (illegal data address) to read holding registers"),
        ("07", "pdu request: read exception status"),
        ("0100000000", "pdu request: not valid: read coils: quantity 0 is outside 1..2000"),
        ("1103006B0003", "rtu: not valid: cut off: the read holding registers request has 8 bytes, 6 came"),
    ],
)
def test_a_summary_is_one_line(text: str, summary: str) -> None:
    assert describe(bytes.fromhex(text)).summary() == summary


def test_a_summary_is_cut_at_its_limit() -> None:
    told = describe(bytes.fromhex("03FA" + "1234" * 125), "pdu", "response")
    assert len(told.summary()) == 160
    assert told.summary(30) == "pdu response: read holding ..."
    assert told.summary(2) == "..."


def test_machines_read_these_names() -> None:
    assert describe(bytes.fromhex("150100000006FF0300040001")).as_dict() == {
        "valid": True,
        "framing": "mbap",
        "transaction": 5377,
        "unit": 255,
        "pdu": "0300040001",
        "direction": "request",
        "function": 3,
        "name": "read holding registers",
        "fields": {"address": 4, "quantity": 1},
    }
    assert describe(b"", "rtu").as_dict() == {
        "valid": False,
        "framing": "rtu",
        "transaction": None,
        "unit": None,
        "pdu": None,
        "direction": None,
        "function": None,
        "name": None,
        "fields": None,
        "error": "an RTU frame has 4..256 bytes, 0 came",
    }


def test_a_description_is_a_value() -> None:
    assert Description(True, "pdu") == Description(True, "pdu")
    with pytest.raises(AttributeError):
        Description(True, "pdu").valid = False  # type: ignore[misc]
