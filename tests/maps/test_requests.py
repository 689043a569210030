from __future__ import annotations

import pytest

from everbus.errors import InvalidRequestError
from everbus.maps.datatypes import Value
from everbus.maps.notation import parse_point
from everbus.maps.points import Table
from everbus.maps.requests import read_request, write_request
from everbus.protocol.pdu.registers import MaskWriteRegisterRequest
from everbus.protocol.values import AddressRange


@pytest.mark.parametrize(
    ("table", "pdu"),
    [
        (Table.COIL, "01 0010 0003"),
        (Table.DISCRETE, "02 0010 0003"),
        (Table.HOLDING, "03 0010 0003"),
        (Table.INPUT, "04 0010 0003"),
    ],
)
def test_each_table_has_its_read(table: Table, pdu: str) -> None:
    assert read_request(table, AddressRange(16, 3)).encode() == bytes.fromhex(pdu)


@pytest.mark.parametrize(
    ("point", "value", "pdu"),
    [
        ("c@5", True, "05 0005 FF00"),
        ("c@5", 0, "05 0005 0000"),
        ("c@5:3", [True, False, True], "0F 0005 0003 01 05"),
        ("h@5", 258, "06 0005 0102"),
        ("h@5/bool", True, "06 0005 0001"),
        ("h@5:2", [1, 2], "10 0005 0002 04 0001 0002"),
        ("h@5/f32:CDAB", 123456.0, "10 0005 0002 04 2000 47F1"),
        ("h@5:2/string", "abc", "10 0005 0002 04 6162 6300"),
        ("h@5/bool.3", True, "16 0005 FFF7 0008"),
        ("h@5/bool.3", False, "16 0005 FFF7 0000"),
        ("h@5/u16.4-7", 10, "16 0005 FF0F 00A0"),
        ("h@5/u32.16-19", 10, "16 0005 FFF0 000A"),
        ("h@5/u32.16-19:CDAB", 10, "16 0006 FFF0 000A"),
        ("h@5/u8", 0x12, "16 0005 FF00 0012"),
        ("h@5/i8:BA", -1, "16 0005 00FF FF00"),
    ],
)
def test_a_value_is_written_with_the_request_that_suits_it(point: str, value: Value, pdu: str) -> None:
    request = write_request(parse_point(point), value)
    assert request.encode() == bytes.fromhex(pdu)
    request.check()


@pytest.mark.parametrize(("point", "pdu"), [("c@5", "0F 0005 0001 01 01"), ("h@5", "10 0005 0001 02 0001")])
def test_single_items_may_be_written_as_several(point: str, pdu: str) -> None:
    assert write_request(parse_point(point), 1, multiple=True).encode() == bytes.fromhex(pdu)


def test_the_largest_writes_are_made() -> None:
    assert len(write_request(parse_point("h@0:123"), [0] * 123).encode()) == 252
    assert len(write_request(parse_point("c@0:1968"), [0] * 1968).encode()) == 252


@pytest.mark.parametrize(
    ("point", "value", "message"),
    [
        ("i@5", 1, "i@5: input registers are only read; coils and"),
        ("d@5", True, "d@5: discrete inputs are only read"),
        ("h@0:124", [0] * 124, "it has 124 items; one request writes at most 123"),
        ("c@0:1969", [0] * 1969, "it has 1969 items; one request writes at most 1968"),
        ("h@5", 65536, r"whole numbers of 0\.\.65535"),
        ("h@5/u32.12-19", 1, "it is a part of 2 registers; one request changes bits of one"),
        ("h@5:2/u8", [1, 2], "it is a part of 2 registers"),
    ],
)
def test_what_no_request_writes_is_refused(point: str, value: Value, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        write_request(parse_point(point), value)


def test_a_mask_write_leaves_the_other_bits() -> None:
    request = write_request(parse_point("h@5/u16.4-7"), 10)
    assert isinstance(request, MaskWriteRegisterRequest)
    assert request.apply(0x1234) == 0x12A4
