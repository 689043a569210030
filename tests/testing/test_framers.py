from __future__ import annotations

import pytest

from everbus.protocol.framing.base import Frame
from everbus.protocol.framing.mbap import MAX_ADU_BYTES, MbapFramer
from everbus.testing import check_framer

WIRE = bytes.fromhex("0001 0000 0006 11 03 006B 0003 0002 0000 0003 01 83 02".replace(" ", ""))
FRAMES = [Frame(0x11, bytes.fromhex("03006B0003"), 1), Frame(1, bytes.fromhex("8302"), 2)]


class Spoilt(MbapFramer):
    """A framer with one mistake."""

    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        return self.spoil(super().feed(data))

    def spoil(self, frames: list[Frame]) -> list[Frame]:
        raise NotImplementedError


class Reversing(Spoilt):
    def spoil(self, frames: list[Frame]) -> list[Frame]:
        return frames[::-1]


class Forgetful(Spoilt):
    """Loses what is split."""

    def spoil(self, frames: list[Frame]) -> list[Frame]:
        self._rest, self.pending = b"", 0
        return frames


class Hoarding(Spoilt):
    """Holds more than a frame can be."""

    def spoil(self, frames: list[Frame]) -> list[Frame]:
        self.pending = MAX_ADU_BYTES + 1
        return frames


class Referring(MbapFramer):
    """Keeps a view of the caller's buffer, which will be used again."""

    def __init__(self) -> None:
        super().__init__()
        self.views: list[bytes | bytearray | memoryview] = []

    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        self.views.append(data)
        fresh = MbapFramer()
        frames = fresh.feed(b"".join(self.views))
        if not fresh.pending:
            self.views.clear()
        self.pending = fresh.pending
        return frames


def test_a_framer_that_keeps_the_contract_passes() -> None:
    check_framer(MbapFramer, WIRE, FRAMES, MAX_ADU_BYTES)
    check_framer(MbapFramer, WIRE[:5], [], 5)
    check_framer(MbapFramer, b"", [], 0)


@pytest.mark.parametrize("kind", [Reversing, Forgetful, Hoarding, Referring])
def test_one_that_breaks_it_does_not(kind: type[MbapFramer]) -> None:
    with pytest.raises(AssertionError, match=r"way \d+: "):
        check_framer(kind, WIRE, FRAMES, MAX_ADU_BYTES)


def test_other_frames_than_expected_are_shown() -> None:
    with pytest.raises(AssertionError, match=r"way 0: .*unit=17.* is not \[\]"):
        check_framer(MbapFramer, WIRE, [], MAX_ADU_BYTES)


def test_each_way_gets_a_framer_of_its_own() -> None:
    made: list[MbapFramer] = []

    def make() -> MbapFramer:
        made.append(MbapFramer())
        return made[-1]

    check_framer(make, WIRE, FRAMES, MAX_ADU_BYTES)
    assert len(made) == 2 + len(WIRE) - 1
