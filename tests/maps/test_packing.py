from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everbus.errors import InvalidRequestError, UsageError
from everbus.maps.codec import codec_for
from everbus.maps.datatypes import DataType, Format
from everbus.maps.order import BADC, CDAB, DCBA, Order


@settings(max_examples=30)
@given(letters=st.permutations("ABCDEFGH").map("".join), raw=st.binary(min_size=8, max_size=8))
def test_each_byte_of_a_value_stands_where_the_order_has_its_letter(letters: str, raw: bytes) -> None:
    codec = codec_for(Format(type=DataType.U64, order=Order.parse(letters)))
    wire = bytes(raw["ABCDEFGH".index(letter)] for letter in letters)
    assert codec.decode(wire) == int.from_bytes(raw, "big")
    assert codec.encode(int.from_bytes(raw, "big")) == wire


@pytest.mark.parametrize(("order", "wire"), [(BADC, "22114433"), (CDAB, "11223344"), (DCBA, "22114433")])
def test_an_order_holds_within_each_value_of_several(order: Order, wire: str) -> None:
    codec = codec_for(Format(count=2, order=order))
    assert codec.decode(bytes.fromhex(wire)) == [0x1122, 0x3344]
    assert codec.encode([0x1122, 0x3344]) == bytes.fromhex(wire)


@pytest.mark.parametrize("size", [0, 2, 3, 5, 8])
def test_data_of_another_size_are_refused(size: int) -> None:
    with pytest.raises(UsageError, match=f"u32 takes 4 bytes of registers, not {size}"):
        codec_for(Format(type=DataType.U32)).decode(bytes(size))


@pytest.mark.parametrize("value", [1, [1], [1, 2, 3], "ab", b"ab", None])
def test_a_count_wants_a_list_of_so_many_values(value: int | list[int] | str | bytes | None) -> None:
    with pytest.raises(InvalidRequestError, match="is not a list of 2 values of type u16"):
        codec_for(Format(count=2)).encode(value)


def test_any_sequence_is_a_list_of_values() -> None:
    codec = codec_for(Format(count=3))
    assert codec.encode((1, 2, 3)) == codec.encode(range(1, 4)) == codec.encode([1, 2, 3])
    assert codec.size_bytes == 6
