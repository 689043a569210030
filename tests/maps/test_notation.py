from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everbus.errors import ConfigurationError, InvalidRequestError
from everbus.maps.datatypes import BitRange, DataType, Value
from everbus.maps.notation import parse_assignment, parse_point, parse_reference, parse_value
from everbus.maps.order import ABCD, BADC, CDAB, DCBA, Order
from everbus.maps.points import Point, Table

FIELDS = {DataType.BOOL: 16, DataType.U16: 16, DataType.U32: 32, DataType.U64: 64}


@st.composite
def points(draw: st.DrawFn) -> Point:
    """Any point that the notation can say."""
    table = draw(st.sampled_from(Table))
    unit = draw(st.none() | st.integers(0, 255))
    address, count = draw(st.integers(0, 65535 - 80)), draw(st.integers(1, 20))
    if table.bits:
        return Point(table, address, unit, count=count)
    kind = draw(st.sampled_from(DataType))
    text = kind in (DataType.STRING, DataType.BYTES)
    order = draw(st.sampled_from([ABCD, BADC] if text else [ABCD, CDAB, BADC, DCBA]))
    if kind.width == 64 and draw(st.booleans()):
        order = Order.parse(draw(st.permutations("ABCDEFGH").map("".join)))
    bits = None
    if kind in FIELDS and draw(st.booleans()):
        first = draw(st.integers(0, FIELDS[kind] - 1))
        bits = BitRange(first, first if kind is DataType.BOOL else draw(st.integers(first, FIELDS[kind] - 1)))
    return Point(table, address, unit, type=kind, count=count, order=order, bits=bits)


@settings(max_examples=60)
@given(points())
def test_a_point_is_read_back_from_its_text(point: Point) -> None:
    assert parse_point(str(point)) == point


@pytest.mark.parametrize(
    ("text", "point", "short"),
    [
        ("h@100", Point(Table.HOLDING, 100), "h@100"),
        (" holding@0x10 ", Point(Table.HOLDING, 16), "h@16"),
        ("i@0:10", Point(Table.INPUT, 0, count=10), "i@0:10"),
        ("IR@0/float32:cdab", Point(Table.INPUT, 0, type=DataType.F32, order=CDAB), "i@0/f32:CDAB"),
        ("3/h@41/u16", Point(Table.HOLDING, 41, 3), "3/h@41"),
        ("c@5:3/bool", Point(Table.COIL, 5, count=3), "c@5:3"),
        ("h@1:CDAB", Point(Table.HOLDING, 1, order=CDAB), "h@1:CDAB"),
        ("h@1:2:BA", Point(Table.HOLDING, 1, count=2, order=BADC), "h@1:2:BADC"),
        ("h@1:4/string:BA", Point(Table.HOLDING, 1, type=DataType.STRING, count=4, order=BADC), "h@1:4/string:BADC"),
        ("h@40/bool.3", Point(Table.HOLDING, 40, type=DataType.BOOL, bits=BitRange(3, 3)), "h@40/bool.3"),
        ("h@40/u16.4-7", Point(Table.HOLDING, 40, bits=BitRange(4, 7)), "h@40/u16.4-7"),
        ("ref:40001", Point(Table.HOLDING, 0), "h@0"),
        ("2/i@ref:30010:2/u32", Point(Table.INPUT, 9, 2, type=DataType.U32, count=2), "2/i@9:2/u32"),
        (
            "7/REF:300010:2/f32:DCBA",
            Point(Table.INPUT, 9, 7, type=DataType.F32, count=2, order=DCBA),
            "7/i@9:2/f32:DCBA",
        ),
    ],
)
def test_points_are_read_as_people_write_them(text: str, point: Point, short: str) -> None:
    assert parse_point(text) == point
    assert str(point) == short


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it names no table; try h@100"),
        ("h", "it names no table; try h@100"),
        ("40001", "try h@40001 for holding register 40001, counted from 0, or ref:40001 if it is a reference number"),
        ("x@1", "'x' is not a table: it is c, d, i or h, .*; try h@100"),
        ("h@", "address '' is not a whole number; try"),
        ("h@a", "address 'a' is not a whole number; try"),
        ("h@1_0", "address '1_0' is not a whole number; try"),
        ("h@\u0663", "is not a whole number; try"),
        ("h@ref:30001", "30001 is a reference number of input registers, not of holding registers"),
        ("h@70000", r"address 70000 is outside 0\.\.65535; try"),
        ("h@65535/f32", "2 items from address 65535 leave the table"),
        ("h@1:0", "count 0 is outside 1"),
        ("h@1:2x", "count '2x' is not a whole number"),
        ("h@1:", "'' is not an order"),
        ("h@1/", "'' is not a type"),
        ("h@1/f3", "'f3' is not a type: it is one of bool, i8"),
        ("h@1/f32:", "'' is not an order"),
        ("h@1/f32:ABDC2", "'ABDC2' is not an order: it is ABCD"),
        ("h@1/f32:CDABGHEF", "is for values of 8 bytes, not 4"),
        ("h@1/u16.x", "bit 'x' is not a whole number"),
        ("h@1/u16.16", "it has bits 0 to 15"),
        ("h@1/f32.1", "bits are taken from bool, u16, u32 or u64"),
        ("c@1/u16", "a coil is a bool"),
        ("300/h@1", r"unit 300 is outside 0\.\.255"),
        ("a/h@1", "unit 'a' is not a whole number"),
        ("h@1=5", "it has a value, and only a place is wanted; try h@1"),
        ("ref:50001", "'50001' is not a reference number: it has 5 or 6 digits, starts with 0, 1, 3 or 4"),
    ],
)
def test_what_is_no_point_is_refused_with_the_reason_and_a_way_out(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        parse_point(text)
    assert str(caught.value).startswith(f"point {text!r}: ")
    assert str(caught.value).count("; try ") == 1


@pytest.mark.parametrize(
    ("text", "table", "address"),
    [
        ("00001", Table.COIL, 0),
        ("19999", Table.DISCRETE, 9998),
        ("30001", Table.INPUT, 0),
        ("400001", Table.HOLDING, 0),
        ("410000", Table.HOLDING, 9999),
        ("465536", Table.HOLDING, 65535),
    ],
)
def test_a_reference_number_counts_from_1(text: str, table: Table, address: int) -> None:
    assert parse_reference(text) == (table, address)


@pytest.mark.parametrize("text", ["", "4001", "40000", "465537", "20001", "4000001", "4000a", "4000²"])
def test_what_is_no_reference_number_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a reference number: it has 5 or 6 digits"):
        parse_reference(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("h@0=0xFF", 255),
        ("h@0=012", 12),
        ("h@0/i16=-0x10", -16),
        ("h@0:3=1, 2,0x3", [1, 2, 3]),
        ("h@0/f32=21.5", 21.5),
        ("h@0/f32=3", 3),
        ("h@0/f64=1e3", 1000.0),
        ("c@0=on", True),
        ("c@0=FALSE", False),
        ("c@0:3=1,no,true", [True, False, True]),
        ("h@0/bool.3=off", False),
        ("h@0:4/string=a=b, c", "a=b, c"),
        ("h@0:2/bytes=0x00ff 4142", b"\x00\xff\x41\x42"),
        ("h@0/bcd=0215", 215),
    ],
)
def test_an_assignment_is_a_point_and_a_value_of_its_type(text: str, value: Value) -> None:
    point, parsed = parse_assignment(text)
    assert point == parse_point(text.partition("=")[0])
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("h@0", "point 'h@0': there is no value in it; try h@0=1"),
        ("x=1", "it names no table"),
        ("h@0=", "value '' does not read as u16, which takes a whole number"),
        ("h@0=on", "value 'on' does not read as u16, which takes a whole number, as 21 or 0x15"),
        ("h@0=21.5", "for a value with a fraction give the type, as /f32"),
        ("h@0=1,2", "for 2 values give a count, as in h@0:2"),
        ("h@0:3=1,2", "h@0:3 takes 3 of them, separated by commas, not 2"),
        ("h@0/f32=x", "value 'x' does not read as f32, which takes a number, as 21.5"),
        ("c@0=2", "value '2' does not read as bool, which takes 1 or 0, true or false, on or off"),
        ("h@0/bytes=0g", "takes bytes in hexadecimal, as 00ff"),
    ],
)
def test_what_is_no_value_is_refused_with_what_it_takes(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        parse_assignment(text)


@pytest.mark.parametrize("text", ["h@0=65536", "h@0/u16.0-3=16", "h@0/string=hello", "h@0/f16=1e6", "h@0/bytes=00"])
def test_a_value_that_does_not_fit_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError):
        parse_assignment(text)


def test_values_of_a_point_from_a_map_have_its_scale_and_its_labels() -> None:
    assert parse_value(Point(Table.HOLDING, 0, scale=0.1), "21.5") == 21.5
    mode = Point(Table.HOLDING, 0, labels={0: "off", 1: "on"})
    assert parse_value(mode, "on") == "on"
    assert parse_value(mode, "1") == 1
    with pytest.raises(ConfigurationError, match="as 21 or 0x15, or one of off, on"):
        parse_value(mode, "auto")
