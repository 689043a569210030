from __future__ import annotations

from math import inf
from typing import Any

import pytest

from everbus.errors import ConfigurationError
from everbus.maps.datatypes import BitRange, DataType, Format
from everbus.maps.order import BADC, CDAB, Order


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("u16", DataType.U16),
        ("uint16", DataType.U16),
        ("int8", DataType.I8),
        ("INT64", DataType.I64),
        ("float16", DataType.F16),
        ("Float32", DataType.F32),
        ("f64", DataType.F64),
        ("bool", DataType.BOOL),
        ("string", DataType.STRING),
    ],
)
def test_a_type_is_found_by_its_short_and_its_long_name(name: str, kind: DataType) -> None:
    assert DataType(name) is kind


@pytest.mark.parametrize("name", ["", "int", "u24", "double", "f8", "16"])
def test_what_is_no_type_is_refused_and_the_types_are_named(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"is not a type: it is one of bool, i8, .*float32"):
        DataType(name)


@pytest.mark.parametrize(
    ("kind", "count", "size_bytes", "values", "registers"),
    [
        (DataType.U8, 1, 2, 1, 1),
        (DataType.BOOL, 3, 2, 3, 3),
        (DataType.F16, 1, 2, 1, 1),
        (DataType.I32, 5, 4, 5, 10),
        (DataType.F64, 2, 8, 2, 8),
        (DataType.STRING, 4, 8, 1, 4),
        (DataType.BCD, 2, 4, 1, 2),
    ],
)
def test_a_format_knows_how_many_registers_it_takes(
    kind: DataType, count: int, size_bytes: int, values: int, registers: int
) -> None:
    form = Format(type=kind, count=count)
    assert (form.size_bytes, form.values, form.registers) == (size_bytes, values, registers)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 0}, r"count 0 is outside 1\.\.65536"),
        ({"count": 65537, "type": DataType.BCD}, r"count 65537 is outside"),
        ({"type": DataType.F32, "order": Order.parse("CDABGHEF")}, "for values of 8 bytes, not 4"),
        ({"type": DataType.STRING, "order": CDAB}, "a string has no word order; use AB, or BA"),
        ({"type": DataType.F32, "bits": BitRange(0, 0)}, "bits are taken from bool, u16, u32 or u64"),
        ({"type": DataType.U16, "bits": BitRange(8, 16)}, "it has bits 0 to 15"),
        ({"type": DataType.BOOL, "bits": BitRange(0, 1)}, "it is one bit"),
        ({"type": DataType.STRING, "scale": 0.1}, "a string has no scale"),
        ({"type": DataType.BOOL, "offset": 1}, "a bool has no scale and no offset"),
        ({"scale": 0}, "or the scale is 0"),
        ({"scale": inf}, "are not numbers"),
        ({"offset": inf}, "are not numbers"),
        ({"scale": 0.1, "labels": {1: "on"}}, "labels name whole numbers without a scale"),
        ({"type": DataType.F32, "labels": {1: "on"}}, "labels name whole numbers"),
        ({"type": DataType.BYTES, "sentinels": (0,)}, "a bytes has no sentinels"),
        ({"type": DataType.STRING, "encoding": "klingon"}, "encoding 'klingon' is not known"),
        ({"type": DataType.STRING, "encoding": "utf\0"}, "is not known"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Format(**settings)


def test_swapped_bytes_suit_text_and_numbers_alike() -> None:
    assert Format(type=DataType.STRING, order=BADC).order == Format(type=DataType.U32, order=BADC).order


def test_labels_do_not_change_with_the_mapping_they_came_from() -> None:
    labels = {1: "on"}
    form = Format(labels=labels)
    labels[1] = "off"
    assert form.labels == {1: "on"}


@pytest.mark.parametrize(
    ("bits", "text", "limit", "mask"),
    [
        (BitRange(3, 3), "3", 1, 0x0008),
        (BitRange(4, 7), "4-7", 15, 0x00F0),
        (BitRange(0, 63), "0-63", 2**64 - 1, 2**64 - 1),
    ],
)
def test_a_range_of_bits_knows_its_mask(bits: BitRange, text: str, limit: int, mask: int) -> None:
    assert (str(bits), bits.limit, bits.mask) == (text, limit, mask)


@pytest.mark.parametrize(("first", "last"), [(-1, 0), (3, 2), (0, 64)])
def test_what_is_no_range_of_bits_is_refused(first: int, last: int) -> None:
    with pytest.raises(ConfigurationError, match="the lower one first"):
        BitRange(first, last)
