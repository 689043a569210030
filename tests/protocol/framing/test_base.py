from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from everbus.protocol.framing.base import Frame, Framer, FramerStatistics
from everbus.protocol.framing.mbap import MbapFramer


def test_a_frame_without_a_transaction_has_the_id_of_serial_lines() -> None:
    assert Frame(1, b"\x07") == Frame(unit=1, pdu=b"\x07", transaction=0)


def test_a_frame_is_told_apart_by_its_unit_its_pdu_and_its_transaction() -> None:
    frame = Frame(1, b"\x07", 2)
    assert len({frame, Frame(1, b"\x07", 2), Frame(2, b"\x07", 2), Frame(1, b"\x0b", 2), Frame(1, b"\x07", 3)}) == 4


def test_statistics_start_at_nothing_and_are_a_snapshot() -> None:
    statistics = FramerStatistics()
    assert statistics == FramerStatistics(frames=0, checksum_errors=0, malformed=0, discarded_bytes=0)
    name = "frames"
    with pytest.raises(FrozenInstanceError):
        setattr(statistics, name, 1)


def test_a_framer_is_used_through_one_interface() -> None:
    framer: Framer = MbapFramer()
    assert framer.feed(framer.encode(1, b"\x07", 5)) == [Frame(1, b"\x07", 5)]
    assert framer.gap() == []
    assert (framer.pending, framer.fault) == (0, None)
    assert framer.statistics() == FramerStatistics(frames=1)
