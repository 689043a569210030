from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everbus.protocol.framing.base import Frame, Framer
from everbus.protocol.framing.datagram import DatagramFramer
from everbus.protocol.framing.mbap import MbapFramer

PDU = bytes.fromhex("0300000001")
DATAGRAM = bytes.fromhex("12340000000611") + PDU


def test_a_datagram_is_one_frame() -> None:
    framer: Framer = DatagramFramer()
    assert framer.encode(0x11, PDU, 0x1234) == DATAGRAM
    assert framer.feed(memoryview(DATAGRAM)) == [Frame(0x11, PDU, 0x1234)]
    assert (framer.statistics().frames, framer.statistics().malformed) == (1, 0)
    assert framer.gap() == []


@pytest.mark.parametrize(
    "datagram",
    [
        pytest.param(b"", id="empty"),
        pytest.param(DATAGRAM[:-1], id="cut off"),
        pytest.param(DATAGRAM + b"\0", id="a byte too many"),
        pytest.param(DATAGRAM + DATAGRAM, id="two"),
        pytest.param(DATAGRAM[:7], id="a header alone"),
        pytest.param(b"\x12\x34\0\x01" + DATAGRAM[4:], id="another protocol"),
        pytest.param(DATAGRAM[:4] + b"\x01\x00" + DATAGRAM[6:7] + bytes(255), id="too long"),
    ],
)
def test_what_is_not_just_one_is_dropped_and_spoils_nothing(datagram: bytes) -> None:
    framer = DatagramFramer()
    assert framer.feed(datagram) == []
    assert (framer.statistics().malformed, framer.statistics().discarded_bytes) == (1, len(datagram))
    assert (framer.fault, framer.pending, framer.pending_transaction) == (None, 0, None)
    assert framer.feed(DATAGRAM) == [Frame(0x11, PDU, 0x1234)]


@settings(max_examples=50)
@given(st.integers(0, 0xFFFF), st.integers(0, 255), st.binary(min_size=1, max_size=253))
def test_it_builds_and_takes_what_mbap_does(transaction: int, unit: int, pdu: bytes) -> None:
    framer = DatagramFramer()
    datagram = framer.encode(unit, pdu, transaction)
    assert datagram == MbapFramer().encode(unit, pdu, transaction)
    assert framer.feed(datagram) == [Frame(unit, pdu, transaction)]
