from __future__ import annotations

from collections.abc import Mapping

import pytest

from everbus.errors import ConfigurationError, UsageError
from everbus.protocol.pdu.table import AnyRequest
from everbus.service.bank import Bank
from everbus.service.context import RequestContext
from everbus.service.handler import SILENT, Answer, FunctionHandler
from everbus.service.local import LocalDevice
from everbus.service.units import Units, UnknownUnit, as_handler, as_units


class Remote:
    def handle(self, request: AnyRequest, context: RequestContext) -> Answer:
        return SILENT


def function(request: AnyRequest, context: RequestContext) -> Answer:
    return SILENT


@pytest.mark.requirement("TG-4.4.2.3-unit")
def test_one_device_answers_every_unit() -> None:
    device = LocalDevice()
    units = Units(device)
    stations = {units.station(unit) for unit in range(256)}
    assert len(stations) == 1
    (station,) = stations
    assert station is not None
    assert (station.handler, station.local, station.diagnostics) == (device, device, device.diagnostics)
    assert units.handlers == [device]
    assert repr(units) == "<Units all>"


def test_a_map_of_units_answers_for_its_units_alone() -> None:
    first, second = LocalDevice(), Remote()
    units = Units({17: first, 1: second})
    station = units.station(17)
    assert station is not None
    assert station.handler is first
    assert [unit for unit in range(256) if units.station(unit) is not None] == [1, 17]
    assert units.handlers == [first, second]
    assert repr(units) == "<Units [1, 17]>"


def test_a_handler_without_data_has_no_short_way_and_no_counters() -> None:
    remote = Remote()
    station = Units(remote).station(1)
    assert station is not None
    assert (station.handler, station.local, station.diagnostics) == (remote, None, None)


@pytest.mark.parametrize("shared", [LocalDevice(), Remote(), Bank(coils=1)])
def test_a_device_at_several_units_is_one_device(shared: LocalDevice | Remote | Bank) -> None:
    units = Units({1: shared, 2: shared, 3: LocalDevice()})
    assert units.station(1) is units.station(2)
    assert units.station(1) is not units.station(3)
    assert len(units.handlers) == 2


def test_an_unknown_unit_is_answered_as_a_gateway_does_unless_told_otherwise() -> None:
    assert Units(Bank(coils=1)).unknown is UnknownUnit.TARGET_FAILED
    assert Units({1: Bank(coils=1)}, UnknownUnit.SILENT).unknown is UnknownUnit.SILENT
    assert [rule.value for rule in UnknownUnit] == [0x0B, 0x0A, 0]


@pytest.mark.parametrize("unit", [-1, 256])
def test_a_map_has_units_of_0_to_255(unit: int) -> None:
    assert Units({0: function, 255: function}).station(255) is not None
    with pytest.raises(UsageError, match=f"unit {unit}"):
        Units({unit: function})


def test_a_map_without_a_unit_is_refused() -> None:
    empty: Mapping[int, LocalDevice] = {}
    with pytest.raises(ConfigurationError, match="no unit has a handler"):
        Units(empty)


def test_a_bank_a_handler_and_a_function_can_answer() -> None:
    bank, remote = Bank(coils=1), Remote()
    device = as_handler(bank)
    assert isinstance(device, LocalDevice)
    assert device.bank is bank
    assert as_handler(remote) is remote
    assert isinstance(as_handler(function), FunctionHandler)
    assert isinstance(as_handler(lambda request, context: SILENT), FunctionHandler)


@pytest.mark.parametrize("device", [None, 5, "tcp://192.0.2.7", object()])
def test_nothing_else_can_answer(device: object) -> None:
    with pytest.raises(ConfigurationError, match="cannot answer requests: give a Bank"):
        as_handler(device)  # type: ignore[arg-type]


def test_ready_units_are_taken_as_they_are() -> None:
    units = Units({1: function})
    assert as_units(units) is units
    assert as_units({5: function}).station(5) is not None
    assert as_units(function).station(5) is not None
