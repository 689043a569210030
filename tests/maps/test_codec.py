from __future__ import annotations

import json
from math import inf, nan
from pathlib import Path
from struct import pack, unpack
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everbus.errors import ConfigurationError, InvalidRequestError, PeerError
from everbus.maps.codec import codec_for
from everbus.maps.datatypes import BitRange, DataType, Format, Value
from everbus.maps.order import ABCD, BADC, CDAB, DCBA, Order

VECTORS: list[dict[str, Any]] = [
    vector
    for vector in json.loads((Path(__file__).parent.parent / "data" / "vectors.json").read_text(encoding="utf-8"))
    if vector["kind"] == "codec"
]
ORDER_IN_WORDS = {"high byte first": "AB", "low byte first": "BA", "high byte first, NUL padded": "AB"}
ORDERS = [ABCD, CDAB, BADC, DCBA]
WHOLE = [kind for kind in DataType if kind.whole]
FLOATS = {DataType.F16: "e", DataType.F32: "f", DataType.F64: "d"}


def read(registers_hex: str, kind: DataType, **settings: Any) -> Value:
    """What registers read as."""
    return codec_for(Format(type=kind, **settings)).decode(bytes.fromhex(registers_hex))


def written(value: Value, kind: DataType, **settings: Any) -> str:
    """What a value is in registers."""
    return codec_for(Format(type=kind, **settings)).encode(value).hex().upper()


def test_the_vectors_are_there() -> None:
    assert len(VECTORS) >= 20
    assert {"float32", "uint64", "string"} <= {vector["type"] for vector in VECTORS}


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: str(vector["name"]))
def test_a_value_is_what_its_vector_says(vector: dict[str, Any]) -> None:
    wire = bytes.fromhex(vector["registers_hex"])
    kind = DataType(vector["type"])
    order = Order.parse(ORDER_IN_WORDS.get(vector["order"], vector["order"]))
    codec = codec_for(Format(type=kind, order=order, count=len(wire) // 2 if kind.spans else 1))
    expected = vector["value"]
    if kind is DataType.F32:
        (expected,) = unpack(">f", pack(">f", expected))
    assert codec.decode(wire) == expected
    assert codec.encode(vector["value"]) == wire


# --- round trips ------------------------------------------------------------------------------


@settings(max_examples=40)
@given(kind=st.sampled_from(WHOLE), order=st.sampled_from(ORDERS), data=st.data())
def test_every_whole_number_of_a_type_comes_back(kind: DataType, order: Order, data: st.DataObject) -> None:
    low = -(1 << kind.width - 1) if kind.signed else 0
    values = data.draw(st.lists(st.integers(low, low + (1 << kind.width) - 1), min_size=2, max_size=4))
    codec = codec_for(Format(type=kind, order=order, count=len(values)))
    assert codec.decode(codec.encode(values)) == values


@settings(max_examples=40)
@given(kind=st.sampled_from(sorted(FLOATS)), order=st.sampled_from(ORDERS), data=st.data())
def test_every_float_of_a_type_comes_back(kind: DataType, order: Order, data: st.DataObject) -> None:
    value = data.draw(st.floats(width=kind.width, allow_nan=False))  # type: ignore[arg-type]
    codec = codec_for(Format(type=kind, order=order))
    assert codec.decode(codec.encode(value)) == value


@settings(max_examples=30)
@given(raw=st.integers(0, 0xFFFF), digits=st.integers(0, 4), offset=st.integers(-500, 500))
def test_every_scaled_register_comes_back(raw: int, digits: int, offset: int) -> None:
    codec = codec_for(Format(scale=10**-digits, offset=offset))
    wire = raw.to_bytes(2, "big")
    assert codec.encode(codec.decode(wire)) == wire


@settings(max_examples=30)
@given(text=st.text(st.characters(codec="utf-8", exclude_characters="\0 "), max_size=3), swapped=st.booleans())
def test_text_comes_back(text: str, swapped: bool) -> None:
    codec = codec_for(Format(type=DataType.STRING, count=6, order=BADC if swapped else ABCD))
    assert codec.decode(codec.encode(text)) == text


@settings(max_examples=30)
@given(number=st.integers(0, 99_999_999), order=st.sampled_from(ORDERS))
def test_decimals_come_back(number: int, order: Order) -> None:
    codec = codec_for(Format(type=DataType.BCD, count=2, order=order))
    assert codec.decode(codec.encode(number)) == number


# --- single types -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "order", "registers", "value"),
    [
        (DataType.U8, ABCD, "12FE", 0xFE),
        (DataType.I8, ABCD, "12FE", -2),
        (DataType.U8, BADC, "12FE", 0x12),
        (DataType.BOOL, ABCD, "0000", False),
        (DataType.BOOL, ABCD, "0002", True),
        (DataType.F16, ABCD, "3C00", 1.0),
        (DataType.F32, CDAB, "200047F1", 123456.0),
        (DataType.F32, ABCD, "7F800000", inf),
    ],
)
def test_registers_read_as_their_type_has_it(kind: DataType, order: Order, registers: str, value: Value) -> None:
    assert read(registers, kind, order=order) == value


def test_types_of_python_are_the_ones_to_expect() -> None:
    assert read("0001", DataType.BOOL) is True
    assert type(read("0001", DataType.U16)) is int
    assert type(read("0001", DataType.U16, scale=10)) is int
    assert type(read("0001", DataType.U16, scale=0.5)) is float


@pytest.mark.parametrize(
    ("registers", "text"),
    [
        ("50726F33454D2D31", "Pro3EM-1"),
        ("4142432020200000", "ABC"),
        ("4142004344454647", "AB"),
        ("2041424344454647", " ABCDEFG"),
        ("0000000000000000", ""),
        ("41FF000000000000", "A\\xff"),
    ],
)
def test_text_ends_at_a_nul_or_where_only_spaces_follow(registers: str, text: str) -> None:
    assert read(registers, DataType.STRING, count=4) == text


def test_text_may_have_another_encoding() -> None:
    assert read("B043", DataType.STRING, encoding="latin-1") == "°C"
    assert written("°C", DataType.STRING, encoding="latin-1") == "B043"


def test_bytes_are_taken_as_they_are() -> None:
    assert read("00FF", DataType.BYTES) == b"\x00\xff"
    assert written(b"\x00\xff", DataType.BYTES, order=BADC) == "FF00"


def test_decimals_are_four_to_a_register() -> None:
    assert read("12345678", DataType.BCD, count=2) == 12345678
    assert read("56781234", DataType.BCD, count=2, order=CDAB) == 12345678
    assert read("0215", DataType.BCD, scale=0.1) == 21.5
    with pytest.raises(PeerError, match="12A4 is not binary coded decimal: a digit is above 9"):
        read("12A4", DataType.BCD)


# --- scale and labels -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "scale", "offset", "value"),
    [
        (215, 0.1, 0, 21.5),
        (3, 0.1, 0, 0.3),
        (29, 0.01, 0, 0.29),
        (215, 0.1, -40, -18.5),
        (7, 100, 0, 700),
        (7, -1, 10, 3),
        (3, 1.5, 0, 4.5),
        (1, 0.15, 0, 0.15),
    ],
)
def test_a_scaled_value_is_the_nearest_number(raw: int, scale: float, offset: float, value: float) -> None:
    registers = f"{raw:04X}"
    assert read(registers, DataType.U16, scale=scale, offset=offset) == value
    assert written(value, DataType.U16, scale=scale, offset=offset) == registers


def test_a_value_between_two_steps_goes_to_the_nearer_one() -> None:
    assert written(21.52, DataType.U16, scale=0.1) == "00D7"
    assert written(15, DataType.U16, scale=10) == written(20, DataType.U16, scale=10) == "0002"


def test_a_scale_loses_nothing_of_a_large_whole_number() -> None:
    value = 10 * (2**60 + 1)
    assert written(value, DataType.U64, scale=10) == "1000000000000001"
    assert read("1000000000000001", DataType.U64, scale=10) == value


def test_labels_name_numbers_both_ways() -> None:
    labels = {0: "off", 1: "on"}
    assert read("0001", DataType.U16, labels=labels) == "on"
    assert read("0007", DataType.U16, labels=labels) == 7
    assert written("on", DataType.U16, labels=labels) == written(1, DataType.U16, labels=labels) == "0001"
    with pytest.raises(InvalidRequestError, match="'auto' is not one of off, on"):
        written("auto", DataType.U16, labels=labels)


# --- bits -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "bits", "order", "registers", "value", "mask"),
    [
        (DataType.BOOL, BitRange(3, 3), ABCD, "0008", True, "0008"),
        (DataType.BOOL, BitRange(3, 3), BADC, "0800", True, "0800"),
        (DataType.U16, BitRange(4, 7), ABCD, "00A0", 10, "00F0"),
        (DataType.U32, BitRange(16, 23), CDAB, "00000012", 0x12, "000000FF"),
    ],
)
def test_bits_are_cut_out_and_put_in(
    kind: DataType, bits: BitRange, order: Order, registers: str, value: Value, mask: str
) -> None:
    codec = codec_for(Format(type=kind, bits=bits, order=order))
    wire = bytes.fromhex(registers)
    assert codec.decode(wire) == value
    assert codec.encode(value) == wire
    assert codec.mask == bytes.fromhex(mask)
    around = bytes(byte | ~part & 0xFF for byte, part in zip(wire, bytes.fromhex(mask), strict=True))
    assert codec.decode(around) == value


@pytest.mark.parametrize(("kind", "order", "mask"), [("u8", ABCD, "00FF"), ("i8", ABCD, "00FF"), ("i8", BADC, "FF00")])
def test_a_byte_is_a_part_of_its_register(kind: str, order: Order, mask: str) -> None:
    assert codec_for(Format(type=DataType(kind), order=order)).mask == bytes.fromhex(mask)


@pytest.mark.parametrize("kind", [DataType.U16, DataType.F64, DataType.STRING, DataType.BOOL, DataType.BCD])
def test_other_types_have_their_registers_to_themselves(kind: DataType) -> None:
    assert codec_for(Format(type=kind)).mask is None


# --- not available ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "sentinel", "registers"),
    [
        (DataType.I16, 0x8000, "8000"),
        (DataType.I16, -32768, "8000"),
        (DataType.U16, 0xFFFF, "FFFF"),
        (DataType.I32, 0x80000000, "80000000"),
        (DataType.U32, 0xFFFFFFFF, "FFFFFFFF"),
        (DataType.F32, 0x7FC00000, "7FC00000"),
        (DataType.F32, -9999.0, "C61C3C00"),
        (DataType.F32, 0xC61C3C00, "C61C3C00"),
        (DataType.F32, 99.9, "42C7CCCD"),
        (DataType.BCD, 0xFFFF, "FFFF"),
        (DataType.U16, 0, "0000"),
    ],
)
def test_a_sentinel_reads_as_none_and_none_is_written_so(kind: DataType, sentinel: float, registers: str) -> None:
    assert read(registers, kind, sentinels=(sentinel,)) is None
    assert written(None, kind, sentinels=(sentinel,)) == registers


@pytest.mark.parametrize("registers", ["7FC00000", "FFC00000", "7F800001", "7FFFFFFF"])
def test_what_is_not_a_number_reads_as_none(registers: str) -> None:
    assert read(registers, DataType.F32) is None


def test_none_is_written_as_not_a_number_where_there_is_no_sentinel() -> None:
    assert written(None, DataType.F32) == written(nan, DataType.F32) == "7FC00000"
    with pytest.raises(InvalidRequestError, match="None is no u16 here: there is no sentinel"):
        written(None, DataType.U16)


def test_a_sentinel_is_the_whole_raw_value_before_scale_bits_and_labels() -> None:
    assert read("8000", DataType.I16, sentinels=(0x8000,), scale=0.1) is None
    assert read("FFFF", DataType.U16, sentinels=(0xFFFF,), bits=BitRange(0, 3)) is None
    assert read("000F", DataType.U16, sentinels=(0xFFFF,), bits=BitRange(0, 3)) == 15
    assert read("FFFF", DataType.U16, sentinels=(0xFFFF,), labels={0xFFFF: "max"}) is None


def test_a_value_that_would_read_as_none_is_not_written() -> None:
    with pytest.raises(InvalidRequestError, match="65535 would read as not available in u16"):
        written(65535, DataType.U16, sentinels=(0xFFFF,))
    with pytest.raises(InvalidRequestError, match="None is no u16 here"):
        written(None, DataType.U16, sentinels=(0xFFFF,), bits=BitRange(0, 3))


@pytest.mark.parametrize(
    ("kind", "sentinel", "message"),
    [
        (DataType.U16, 0x10000, "is not a raw value of u16, 16 bits"),
        (DataType.U16, -1, "is not a raw value of u16"),
        (DataType.I16, -32769, "is not a raw value of i16"),
        (DataType.I16, 1.5, "is not a raw value of i16"),
        (DataType.F32, 0x1_0000_0000, "is neither a bit pattern of f32"),
        (DataType.F32, -9999, "is neither a bit pattern of f32 nor a float"),
        (DataType.F32, 1e39, "nor a float that fits it"),
        (DataType.F32, 0x80000000, "is plus or minus zero in f32"),
        (DataType.F32, 1e-60, "is plus or minus zero in f32"),
        (DataType.BCD, 0x10000, "is not a bit pattern of 2 bytes"),
        (DataType.BCD, -1, "is not a bit pattern of 2 bytes"),
        (DataType.BCD, nan, "is not a bit pattern of 2 bytes"),
    ],
)
def test_a_sentinel_that_is_no_raw_value_is_refused(kind: DataType, sentinel: float, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        codec_for(Format(type=kind, sentinels=(sentinel,)))


# --- what does not fit ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "kind", "settings", "message"),
    [
        (65536, DataType.U16, {}, r"65536 does not fit u16: it holds whole numbers of 0\.\.65535"),
        (-1, DataType.U64, {}, r"of 0\.\.18446744073709551615"),
        (-32769, DataType.I16, {}, r"of -32768\.\.32767"),
        (128, DataType.I8, {}, r"of -128\.\.127"),
        (21.5, DataType.U16, {}, "21.5 does not fit u16: it holds whole numbers"),
        (nan, DataType.U16, {}, "nan does not fit u16"),
        (inf, DataType.U16, {"scale": 0.1}, "inf does not fit u16"),
        (10**400, DataType.U16, {"scale": 0.5, "offset": 0.5}, "does not fit u16"),
        (6553.6, DataType.U16, {"scale": 0.1}, r"u16 with scale 0\.1 and offset 0: it holds 0\.0\.\.6553\.5"),
        (16, DataType.U16, {"bits": BitRange(0, 3)}, r"16 does not fit u16\.0-3: it holds whole numbers of 0\.\.15"),
        (2, DataType.BOOL, {}, r"2 does not fit bool: it holds whole numbers of 0\.\.1"),
        (1e39, DataType.F32, {}, r"1e\+39 does not fit f32: it holds -3\.4028234663852886e\+38\.\."),
        (65520, DataType.F16, {}, r"65520 does not fit f16: it holds -65504\.0\.\.65504\.0"),
        (10**400, DataType.F64, {}, "does not fit f64"),
        (1.7e308, DataType.F64, {"scale": 0.1}, r"1\.7e\+308 does not fit f64 with scale 0\.1"),
        (10000, DataType.BCD, {}, r"10000 does not fit bcd: it holds whole numbers of 0\.\.9999"),
        ("on", DataType.U16, {}, "'on' is not a number, as u16 is"),
        ([1], DataType.U16, {}, r"\[1\] is not a number"),
        ("abcde", DataType.STRING, {"count": 2}, "5 bytes in utf-8; a string of 2 registers holds 4"),
        ("a\0b", DataType.STRING, {"count": 2}, "is not text without a NUL"),
        (5, DataType.STRING, {}, "5 is not text"),
        ("€", DataType.STRING, {"encoding": "latin-1"}, "characters that latin-1 does not know"),
        (b"abc", DataType.BYTES, {}, "is not 2 bytes, as bytes of 1 registers are"),
        ("ab", DataType.BYTES, {}, "'ab' is not 2 bytes"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_the_limits(
    value: Value, kind: DataType, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        written(value, kind, **settings)
