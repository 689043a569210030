from __future__ import annotations

import asyncio
from functools import partial

import pytest

from everbus.protocol.codes import DiagnosticCode
from everbus.protocol.framing.base import Frame
from everbus.protocol.pdu.registers import WriteSingleRegisterResponse
from everbus.protocol.pdu.table import AnyRequest
from everbus.service.bank import Bank
from everbus.service.context import ConnectionInfo, RequestContext
from everbus.service.handler import Answer
from everbus.service.local import LocalDevice
from everbus.service.multidrop import BROADCAST, Multidrop
from everbus.service.pipeline import Pending, Pipeline
from everbus.service.units import Units, UnitSource, as_units

LINE = ConnectionInfo(1, "/dev/ttyS0", serial=True)
READ = bytes.fromhex("0300000001")
WRITE = bytes.fromhex("0600001234")
COUNTERS = [code for code in DiagnosticCode if 0x0B <= code <= 0x12]


def counted(device: LocalDevice) -> dict[str, int]:
    """The counters that are not zero."""
    values = {code.name: device.diagnostics.counter(code) for code in COUNTERS}
    return {name: value for name, value in values.items() if value}


def multidrop(source: UnitSource) -> Multidrop:
    units = as_units(source)
    return Multidrop(Pipeline(units), units)


def asked(devices: Multidrop, unit: int, pdu: bytes = READ) -> str | None:
    answer = devices.answer(Frame(unit, pdu), LINE)
    assert not isinstance(answer, Pending)
    return answer.hex() if answer is not None else None


def told(devices: Multidrop, pdu: bytes) -> None:
    assert devices.broadcast(Frame(BROADCAST, pdu), LINE) == []


def value(device: LocalDevice) -> int:
    return device.bank.read_holding_registers(0)[0]


# --- one unit ---------------------------------------------------------------------------------


@pytest.mark.requirement("SL-2.2-others", "SL-2.1-silence", "SL-2.2-units")
def test_only_devices_here_answer() -> None:
    devices = multidrop({1: LocalDevice(), 5: LocalDevice()})
    assert [unit for unit in range(1, 256) if devices.is_here(unit)] == [1, 5]
    assert [asked(devices, unit) for unit in (1, 2, 5, 247)] == ["03020000", None, "03020000", None]
    assert asked(devices, 2, bytes.fromhex("99FF")) is None
    assert [asked(multidrop(LocalDevice()), unit) for unit in (247, 248, 255)] == ["03020000"] * 3


@pytest.mark.requirement("SL-A-messages", "SL-A-server-messages")
def test_every_device_counts_every_message_and_its_own_besides() -> None:
    first, second = LocalDevice(), LocalDevice()
    devices = multidrop({1: first, 2: second})
    for unit in (1, 1, 2, 3):
        asked(devices, unit)
    asked(devices, 1, WRITE)
    devices.overheard(2)
    assert counted(first) == {"BUS_MESSAGE_COUNT": 7, "SERVER_MESSAGE_COUNT": 3}
    assert counted(second) == {"BUS_MESSAGE_COUNT": 7, "SERVER_MESSAGE_COUNT": 1}


@pytest.mark.requirement("SL-A-errors", "SL-A-overruns")
def test_every_device_counts_what_was_not_good() -> None:
    first, second = LocalDevice(), LocalDevice()
    multidrop({1: first, 2: second, 3: second}).misheard(3, 2)
    for device in (first, second):
        assert counted(device) == {"BUS_COMM_ERROR_COUNT": 3, "BUS_CHAR_OVERRUN_COUNT": 2}
        assert device.diagnostics.log == b"\x92" * 3
    first.diagnostics.force_listen_only()
    multidrop(first).misheard(1, 0)
    assert first.diagnostics.log[:1] == b"\xa2"


# --- all of them ------------------------------------------------------------------------------


WRITES = {
    "050000FF00": ("0100000001", "010101"),
    "0600001234": ("0300000001", "03021234"),
    "0F00000001 0101": ("0100000001", "010101"),
    "1000000001 021234": ("0300000001", "03021234"),
    "16000000001234": ("0300000001", "03021234"),
    "1509 06 0001 0000 0001 1234": ("1407 06 0001 0000 0001", "14040306 1234"),
}
"""Requests that write, and how to see what they wrote."""


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.requirement("SL-2.2-broadcast", "SL-A-broadcasts")
def test_a_write_is_done_by_every_device_and_answered_by_none(write: str) -> None:
    first, second = LocalDevice(), LocalDevice()
    devices = multidrop({7: first, 9: second, 8: second})
    told(devices, bytes.fromhex(write))
    for device in (first, second):
        assert counted(device) == {"BUS_MESSAGE_COUNT": 1, "SERVER_MESSAGE_COUNT": 1, "SERVER_NO_RESPONSE_COUNT": 1}
        assert device.diagnostics.log == b"\x40\xc0"
        assert device.diagnostics.events == 1  # done once, whatever its units
    read, found = WRITES[write]
    for unit in (7, 8, 9):
        assert asked(devices, unit, bytes.fromhex(read)) == bytes.fromhex(found).hex()


@pytest.mark.parametrize("pdu", ["0300000001", "0800000000", "0B", "170000000100000001021234", "2B0E0100", "41"])
@pytest.mark.requirement("SL-2.2-broadcast-reads", "SL-A-broadcast-exceptions", "SL-A-broadcasts")
def test_what_wants_an_answer_is_counted_and_not_done(pdu: str) -> None:
    device = LocalDevice()
    told(multidrop(device), bytes.fromhex(pdu))
    assert counted(device) == {
        "BUS_MESSAGE_COUNT": 1,
        "BUS_EXCEPTION_ERROR_COUNT": 1,
        "SERVER_MESSAGE_COUNT": 1,
        "SERVER_NO_RESPONSE_COUNT": 1,
    }
    assert value(device) == 0


@pytest.mark.requirement("SL-A-broadcast-exceptions")
def test_errors_in_a_broadcast_are_counted() -> None:
    device = LocalDevice(Bank(holding_registers=1))
    devices = multidrop(device)
    told(devices, bytes.fromhex("0600011234"))
    told(devices, bytes.fromhex("060001"))
    assert device.diagnostics.counter(DiagnosticCode.BUS_EXCEPTION_ERROR_COUNT) == 2
    assert device.diagnostics.counter(DiagnosticCode.SERVER_NO_RESPONSE_COUNT) == 2
    assert asked(devices, 1) == "03020000"
    assert device.diagnostics.counter(DiagnosticCode.SERVER_NO_RESPONSE_COUNT) == 2


@pytest.mark.requirement("AP-6.8.1-04")
def test_listen_only_mode_and_restart_can_be_broadcast() -> None:
    first, second = LocalDevice(), LocalDevice()
    devices = multidrop({1: first, 2: second})
    told(devices, bytes.fromhex("0800040000"))
    assert [asked(devices, 1), asked(devices, 2)] == [None, None]
    told(devices, WRITE)
    told(devices, READ)
    assert value(first) == 0
    assert first.diagnostics.counter(DiagnosticCode.SERVER_NO_RESPONSE_COUNT) == 4
    told(devices, bytes.fromhex("0800010000"))
    assert [asked(devices, 1), asked(devices, 2)] == ["03020000"] * 2


def test_a_device_is_asked_by_its_own_unit() -> None:
    units: list[int] = []

    def handler(request: AnyRequest, context: RequestContext) -> Answer:
        units.append(context.unit)
        return WriteSingleRegisterResponse(0, 0x1234)

    told(multidrop({4: handler, 3: handler, 9: partial(handler)}), WRITE)
    told(multidrop(handler), WRITE)
    assert units == [4, 9, 0]


def test_handlers_that_need_time_are_given_back() -> None:
    async def handler(request: AnyRequest, context: RequestContext) -> Answer:
        return WriteSingleRegisterResponse(0, 0x1234)

    devices = multidrop({1: handler, 2: LocalDevice(), 3: partial(handler)})
    waiting = devices.broadcast(Frame(BROADCAST, WRITE), LINE)
    assert [pending.context.unit for pending in waiting] == [1, 3]
    assert [asyncio.run(pending.awaitable) for pending in waiting] == [WriteSingleRegisterResponse(0, 0x1234)] * 2  # type: ignore[arg-type]


def test_devices_are_each_once() -> None:
    shared, single = LocalDevice(), LocalDevice()
    assert [station.handler for station in Units(shared).devices.values()] == [shared]
    assert {unit: one.handler for unit, one in Units({5: shared, 2: single, 9: shared}).devices.items()} == {
        5: shared,
        2: single,
    }
