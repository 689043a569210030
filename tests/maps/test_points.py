from __future__ import annotations

from copy import deepcopy
from dataclasses import FrozenInstanceError, replace
from pickle import dumps, loads
from typing import Any

import pytest

from everbus.errors import ConfigurationError, InvalidRequestError, PeerError, UsageError
from everbus.maps.datatypes import BitRange, DataType, Value
from everbus.maps.order import CDAB
from everbus.maps.points import Point, Table, reference
from everbus.protocol.values import AddressRange

VOLTAGE = Point(Table.INPUT, 10, type=DataType.F32, order=CDAB, name="voltage", unit_of_measure="V")


@pytest.mark.parametrize(
    ("table", "names"),
    [
        (Table.COIL, ["c", "C", "coil", "coils", "CO", "do"]),
        (Table.DISCRETE, ["d", "discrete", "DI", "discrete input", "discrete_inputs"]),
        (Table.INPUT, ["i", "input", "IR", "input_registers"]),
        (Table.HOLDING, ["h", "Holding", "HR", "holding register"]),
    ],
)
def test_a_table_is_found_by_all_its_names(table: Table, names: list[str]) -> None:
    assert {Table(name) for name in names} == {table}


@pytest.mark.parametrize("name", ["", "x", "hold", "4x", "coil register"])
def test_what_is_no_table_is_refused_and_the_tables_are_named(name: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a table: it is c, d, i or h"):
        Table(name)


@pytest.mark.parametrize(
    ("table", "bits", "writable", "item", "number"),
    [
        (Table.COIL, True, True, "coil", "000001"),
        (Table.DISCRETE, True, False, "discrete input", "100001"),
        (Table.INPUT, False, False, "input register", "300001"),
        (Table.HOLDING, False, True, "holding register", "400001"),
    ],
)
def test_a_table_knows_what_it_holds(table: Table, bits: bool, writable: bool, item: str, number: str) -> None:
    assert (table.bits, table.writable, table.item) == (bits, writable, item)
    assert reference(table, 0) == Point(table, 0).reference == number


def test_the_last_reference_number_has_six_digits() -> None:
    assert reference(Table.HOLDING, 65535) == "465536"


def test_a_point_is_a_register_or_a_bit_unless_told_otherwise() -> None:
    assert Point(Table.HOLDING, 0).type is DataType.U16
    assert Point(Table.COIL, 0).type is DataType.BOOL


def test_a_point_knows_what_it_takes_of_its_table() -> None:
    assert VOLTAGE.range == AddressRange(10, 2)
    assert Point(Table.COIL, 5, count=9).range == AddressRange(5, 9)
    assert Point(Table.HOLDING, 5, type=DataType.STRING, count=9).items == 9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"address": -1}, r"address -1 is outside 0\.\.65535"),
        ({"address": 65535, "type": DataType.F32}, r"2 items from address 65535 leave the table"),
        ({"unit": 256}, r"unit 256 is outside 0\.\.255"),
        ({"table": Table.COIL, "type": DataType.U16}, "a coil is a bool, without bits, order and sentinels; not u16"),
        ({"table": Table.DISCRETE, "bits": BitRange(0, 0)}, "a discrete input is a bool"),
        ({"table": Table.COIL, "order": CDAB}, "a coil is a bool"),
        ({"sentinels": (-1,)}, "sentinel -1 is not a raw value of u16"),
        ({"table": "x"}, "is not a table"),
        ({"type": "x"}, "is not a type"),
    ],
)
def test_a_point_that_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Point(**dict[str, Any]({"table": Table.HOLDING, "address": 0}, **settings))


def test_a_point_cannot_be_changed() -> None:
    name = "address"
    with pytest.raises(FrozenInstanceError):
        setattr(VOLTAGE, name, 70000)


@pytest.mark.parametrize("copy", [deepcopy(VOLTAGE), loads(dumps(VOLTAGE)), replace(VOLTAGE)])
def test_a_copy_is_the_same_point_and_works(copy: Point) -> None:
    assert copy == VOLTAGE
    assert hash(copy) == hash(VOLTAGE)
    assert copy.decode(bytes.fromhex("200047F1")) == 123456.0


def test_a_point_in_registers_reads_and_writes_by_its_format() -> None:
    assert VOLTAGE.decode(bytes.fromhex("200047F1")) == 123456.0
    assert VOLTAGE.encode(123456) == bytes.fromhex("200047F1")
    assert VOLTAGE.mask is None
    assert Point(Table.HOLDING, 0, type=DataType.U8).mask == b"\x00\xff"
    with pytest.raises(PeerError, match="binary coded decimal"):
        Point(Table.INPUT, 0, type=DataType.BCD).decode(b"\x00\x0a")


@pytest.mark.parametrize(("count", "value", "data"), [(1, True, b"\x01"), (3, [True, False, True], b"\x01\x00\x01")])
def test_a_point_of_bits_has_a_byte_for_each(count: int, value: Value, data: bytes) -> None:
    point = Point(Table.COIL, 0, count=count)
    assert point.decode(data) == value
    assert point.encode(value) == data
    assert point.mask is None


@pytest.mark.parametrize(
    ("count", "value", "message"),
    [
        (1, 2, "2 is not a bit: True or False"),
        (1, "on", "'on' is not a bit"),
        (1, None, "None is not a bit"),
        (1, [True], "is not a bit"),
        (2, True, "True is not a list of 2 bits"),
        (2, [True], "is not a list of 2 bits"),
        (2, [True, 2], "is not a list of 2 bits"),
        (2, "10", "is not a list of 2 bits"),
    ],
)
def test_what_is_no_bit_is_refused(count: int, value: Value, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        Point(Table.COIL, 0, count=count).encode(value)


def test_too_few_bits_are_refused() -> None:
    with pytest.raises(UsageError, match="c@0:3 has 3 bits, not 2"):
        Point(Table.COIL, 0, count=3).decode(b"\x01\x00")
