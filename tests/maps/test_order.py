from __future__ import annotations

import pytest

from everbus.errors import ConfigurationError
from everbus.maps.order import ABCD, BADC, CDAB, DCBA, Endian, Order

NAMED = {"ABCD": ABCD, "CDAB": CDAB, "BADC": BADC, "DCBA": DCBA}


@pytest.mark.parametrize("name", NAMED)
def test_the_four_orders_are_read_and_written_by_their_letters(name: str) -> None:
    assert Order.parse(name) == Order.parse(name.lower()) == NAMED[name]
    assert str(NAMED[name]) == name


@pytest.mark.parametrize(
    ("words", "octets", "name"),
    [("big", "big", "ABCD"), ("little", "big", "CDAB"), ("big", "little", "BADC"), ("little", "little", "DCBA")],
)
def test_two_settings_say_the_same_as_the_letters(words: Endian, octets: Endian, name: str) -> None:
    assert Order(word_order=words, byte_order=octets) == Order.parse(name)


@pytest.mark.parametrize(
    ("letters", "order"),
    [
        ("AB", ABCD),
        ("BA", BADC),
        ("ABCDEF", ABCD),
        ("EFCDAB", CDAB),
        ("ABCDEFGH", ABCD),
        ("GHEFCDAB", CDAB),
        ("BADCFEHG", BADC),
        ("HGFEDCBA", DCBA),
    ],
)
def test_an_order_written_for_another_size_is_the_same_order(letters: str, order: Order) -> None:
    assert Order.parse(letters) == order
    assert order.spelled(len(letters)) == letters


def test_an_order_that_no_setting_says_keeps_its_letters_and_its_size() -> None:
    order = Order.parse("cdabghef")
    assert str(order) == order.spelled(8) == "CDABGHEF"
    assert order.permutation(8) == (2, 3, 0, 1, 6, 7, 4, 5)
    with pytest.raises(ConfigurationError, match="for values of 8 bytes, not 4"):
        order.permutation(4)


@pytest.mark.parametrize("text", ["", "A", "ABC", "ABCE", "AACD", "big", "12", "ABCDEFGHIJ"])
def test_what_is_no_order_is_refused_and_the_orders_are_named(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is not an order: it is ABCD"):
        Order.parse(text)


def test_settings_are_validated() -> None:
    with pytest.raises(ConfigurationError, match="word_order is big or little, not 'middle'"):
        Order(word_order="middle")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="'ABDE' is not an order"):
        Order(letters="ABDE")
