from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everbus.errors import UsageError
from everbus.protocol.values import (
    AddressRange,
    check_unit,
    pack_bits,
    pack_registers,
    unpack_bits,
    unpack_registers,
)

bit_lists = st.lists(st.booleans(), max_size=2000)
register_lists = st.lists(st.integers(0, 0xFFFF), max_size=125)


@pytest.mark.parametrize(("address", "count", "end"), [(0, 1, 1), (0, 65536, 65536), (65535, 1, 65536), (10, 5, 15)])
def test_a_range_knows_its_end(address: int, count: int, end: int) -> None:
    assert AddressRange(address, count).end == end


@pytest.mark.parametrize(
    ("address", "count"), [(-1, 1), (65536, 1), (0, 0), (0, -1), (0, 65537), (65535, 2), (1, 65536)]
)
def test_a_range_that_leaves_its_table_cannot_be_built(address: int, count: int) -> None:
    with pytest.raises(UsageError):
        AddressRange(address, count)


def test_the_message_about_a_bad_range_has_its_numbers() -> None:
    with pytest.raises(UsageError, match=r"address 65536 is outside 0\.\.65535"):
        AddressRange(65536, 1)
    with pytest.raises(UsageError, match=r"2 items from address 65535 leave the table"):
        AddressRange(65535, 2)


def test_a_range_reads_as_its_first_and_last_address() -> None:
    assert str(AddressRange(96, 4)) == "96..99"


def test_a_range_cannot_be_changed() -> None:
    name = "count"
    with pytest.raises(FrozenInstanceError):
        setattr(AddressRange(0, 1), name, 70000)


def test_ranges_sort_by_address() -> None:
    ranges = [AddressRange(5, 1), AddressRange(0, 9), AddressRange(0, 2)]
    assert sorted(ranges) == [AddressRange(0, 2), AddressRange(0, 9), AddressRange(5, 1)]


@pytest.mark.parametrize("unit", [0, 1, 247, 255])
def test_a_unit_is_any_byte(unit: int) -> None:
    assert check_unit(unit) == unit


@pytest.mark.parametrize("unit", [-1, 256])
def test_a_unit_that_is_no_byte_is_refused(unit: int) -> None:
    with pytest.raises(UsageError, match=f"unit {unit} is outside"):
        check_unit(unit)


def test_the_first_bit_is_the_lowest_of_the_first_byte() -> None:
    # AP 6.1: coils 20 to 38 of the example, 19 of them.
    bits = unpack_bits(bytes.fromhex("CD6B05"), 19)
    assert [int(bit) for bit in bits] == [1, 0, 1, 1, 0, 0, 1, 1, 1, 1, 0, 1, 0, 1, 1, 0, 1, 0, 1]
    assert pack_bits(bits) == bytes.fromhex("CD6B05")


@given(bits=bit_lists)
@settings(deadline=None)
def test_bits_survive_packing(bits: list[bool]) -> None:
    assert unpack_bits(pack_bits(bits), len(bits)) == bits


@given(bits=bit_lists)
@settings(deadline=None)
@pytest.mark.requirement("AP-6.1-packing", "AP-6.2-packing")
def test_packed_bits_place_each_bit_by_its_number_and_leave_the_rest_zero(bits: list[bool]) -> None:
    data = pack_bits(bits)
    assert len(data) == -(-len(bits) // 8)
    places = [data[position // 8] >> position % 8 & 1 for position in range(8 * len(data))]
    assert places == [int(bit) for bit in bits] + [0] * (len(places) - len(bits))


@given(data=st.binary(max_size=250), count=st.integers(0, 2000))
@settings(deadline=None)
def test_unpacking_ignores_the_bits_that_were_not_asked_for(data: bytes, count: int) -> None:
    count = min(count, 8 * len(data))
    assert unpack_bits(data, count) == unpack_bits(data, 8 * len(data))[:count]


def test_bits_may_be_numbers_and_come_from_any_iterable() -> None:
    assert pack_bits(iter([1, 0, 0, 1, 2])) == b"\x19"


@pytest.mark.requirement("AP-4.2-byte-order")
def test_registers_travel_high_byte_first() -> None:
    assert pack_registers([0x022B, 0, 0x0064]) == bytes.fromhex("022B00000064")
    assert unpack_registers(bytes.fromhex("022B00000064")) == [555, 0, 100]


@given(values=register_lists)
@settings(deadline=None)
def test_registers_survive_packing(values: list[int]) -> None:
    assert unpack_registers(pack_registers(values)) == values


@given(data=st.binary(max_size=250).filter(lambda data: len(data) % 2 == 0))
@settings(deadline=None)
def test_wire_bytes_survive_unpacking(data: bytes) -> None:
    assert pack_registers(unpack_registers(data)) == data


@pytest.mark.parametrize("value", [-1, 65536, 1.5, "1", None])
def test_a_register_that_does_not_fit_16_bits_is_refused(value: object) -> None:
    values: list[object] = [0, value]
    with pytest.raises(UsageError, match=r"whole numbers of 0\.\.65535"):
        pack_registers(values)  # type: ignore[arg-type]
