"""Requirements of the Serial Line that no other test shows; each is marked with its row of the ledger."""

from __future__ import annotations

import pytest

from everbus.protocol.framing.ascii import AsciiFramer
from everbus.protocol.framing.base import Framer
from everbus.protocol.framing.rtu import RtuFramer
from everbus.service.context import ConnectionInfo
from everbus.service.local import LocalDevice
from everbus.service.pipeline import Pipeline
from everbus.service.units import Units, UnknownUnit

SERIAL = ConnectionInfo(1, serial=True)


def sent_back(framer: Framer, device: LocalDevice, data: bytes) -> list[bytes]:
    """What a device at unit 17 of a line sends after these bytes and a silence: at most a frame for each request."""
    pipeline = Pipeline(Units({17: device}, UnknownUnit.SILENT))
    sent = []
    for frame in [*framer.feed(data), *framer.gap()]:
        answer = pipeline.answer(frame, SERIAL)
        assert answer is None or isinstance(answer, bytes)
        if answer is not None:
            sent.append(framer.encode(frame.unit, answer))
    return sent


@pytest.mark.parametrize("framer", [RtuFramer("line"), AsciiFramer()], ids=lambda framer: type(framer).__name__)
@pytest.mark.requirement("SL-2.3-frame", "SL-2.4.2-request-error")
def test_an_error_in_the_request_is_answered(framer: Framer) -> None:
    for pdu, answer in [("0300000000", "8303"), ("03FFFF0002", "8302"), ("0300000001", "03020000")]:
        request = framer.encode(17, bytes.fromhex(pdu))
        assert sent_back(framer, LocalDevice(), request) == [framer.encode(17, bytes.fromhex(answer))]


@pytest.mark.parametrize("framer", [RtuFramer("line"), AsciiFramer()], ids=lambda framer: type(framer).__name__)
@pytest.mark.requirement("SL-2.4.2-frame-error", "SL-2.5.1.2-bad", "SL-2.5.2.2-bad")
def test_an_error_in_the_frame_is_not_answered_and_nothing_is_executed(framer: Framer) -> None:
    device = LocalDevice()
    request = framer.encode(17, bytes.fromhex("0600010003"))
    for at in range(len(request)):
        broken = bytearray(request)
        broken[at] ^= 0x01
        assert sent_back(framer, device, bytes(broken)) == []
        assert device.bank.read_holding_registers(1) == [0]
    assert sent_back(framer, device, request) == [request]


@pytest.mark.parametrize("framer", [RtuFramer("line"), AsciiFramer()], ids=lambda framer: type(framer).__name__)
@pytest.mark.requirement("SL-2.2-others")
def test_a_request_to_another_unit_is_neither_answered_nor_executed(framer: Framer) -> None:
    device = LocalDevice()
    for unit in [*range(1, 17), *range(18, 248)]:
        for pdu in ("0600010003", "0300000000"):
            assert sent_back(framer, device, framer.encode(unit, bytes.fromhex(pdu))) == []
    assert device.bank.read_holding_registers(1) == [0]
    assert device.diagnostics.messages == 0
