"""The order in which a value's bytes travel: registers in a value, bytes in a register (spec.md 3.1).

The letters name the bytes of a value, A the most significant; written in a row they are the order
on the wire. ``ABCD`` is the order of the specification, ``CDAB`` has the low word first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, Self

from everbus.errors import ConfigurationError

__all__ = ["ABCD", "BADC", "CDAB", "DCBA", "Endian", "Order"]

Endian = Literal["big", "little"]
"""``big``: the most significant part first."""

_ALPHABET: Final = "ABCDEFGH"
_ENDIANS: Final[tuple[Endian, Endian]] = ("big", "little")


@dataclass(frozen=True, slots=True)
class Order:
    """How a value's bytes lie in its registers.

    Args:
        word_order: ``big``: the register with the most significant bits first. Says nothing about
            values of one register.
        byte_order: ``big``: the high byte of each register first, as the specification has it.
        letters: an order that the two settings cannot say, such as ``CDABGHEF``; it fits values of
            exactly so many bytes. Empty: the two settings hold, for values of any size.

    Raises:
        ConfigurationError: a setting or the letters are not an order.
    """

    word_order: Endian = "big"
    byte_order: Endian = "big"
    letters: str = ""

    def __post_init__(self) -> None:
        for name in ("word_order", "byte_order"):
            if getattr(self, name) not in _ENDIANS:
                raise ConfigurationError(f"{name} is big or little, not {getattr(self, name)!r}")
        if self.letters and sorted(self.letters) != list(_ALPHABET[: len(self.letters)]):
            raise _not_an_order(self.letters)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an order from its letters, upper or lower case.

        ``ABCD``, ``CDAB``, ``BADC`` and ``DCBA`` (and these orders written for 2, 6 or 8 bytes, as
        ``BA`` or ``GHEFCDAB``) hold for values of any size; another permutation of ``A`` to ``H``
        holds for values of its own size.

        Raises:
            ConfigurationError: it is not an order; the message says which there are.
        """
        letters = text.upper()
        if not letters or len(letters) % 2 or sorted(letters) != list(_ALPHABET[: len(letters)]):
            raise _not_an_order(text)
        for byte_order in _ENDIANS:
            for word_order in _ENDIANS:
                order = cls(word_order, byte_order)
                if order.spelled(len(letters)) == letters:
                    return order
        return cls(letters=letters)

    def permutation(self, size_bytes: int) -> tuple[int, ...]:
        """Which byte of a value, 0 the most significant, stands at each place on the wire.

        Args:
            size_bytes: of one value; even.

        Raises:
            ConfigurationError: the order's letters are for values of another size.
        """
        if self.letters:
            if len(self.letters) != size_bytes:
                raise ConfigurationError(
                    f"order {self.letters} is for values of {len(self.letters)} bytes, not {size_bytes}; "
                    "ABCD, CDAB, BADC and DCBA fit all"
                )
            return tuple(map(_ALPHABET.index, self.letters))
        words = range(0, size_bytes, 2) if self.word_order == "big" else range(size_bytes - 2, -1, -2)
        first, second = (0, 1) if self.byte_order == "big" else (1, 0)
        return tuple(word + byte for word in words for byte in (first, second))

    def spelled(self, size_bytes: int) -> str:
        """Its letters for values of 2 to 8 bytes: ``GHEFCDAB``.

        Raises:
            ConfigurationError: the order's letters are for values of another size.
        """
        return "".join(_ALPHABET[place] for place in self.permutation(size_bytes))

    def __str__(self) -> str:
        return self.letters or self.spelled(4)


def _not_an_order(text: str) -> ConfigurationError:
    return ConfigurationError(
        f"{text!r} is not an order: it is ABCD (as the specification has it), CDAB (low word first), "
        "BADC (bytes swapped) or DCBA, or each of the letters A to H once, as in CDABGHEF"
    )


ABCD: Final = Order()
CDAB: Final = Order("little", "big")
BADC: Final = Order("big", "little")
DCBA: Final = Order("little", "little")
