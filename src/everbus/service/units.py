"""Unit identifiers: which handler answers which, and what an unknown one gets (spec.md 4.3)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

from everbus.errors import ConfigurationError
from everbus.protocol.codes import ExceptionCode
from everbus.protocol.values import check_unit
from everbus.service.bank import Bank
from everbus.service.diagnostics import Diagnostics
from everbus.service.handler import FunctionHandler, Handler, HandlerFunction, LocalHandler
from everbus.service.local import LocalDevice

__all__ = ["HandlerLike", "Station", "UnitSource", "Units", "UnknownUnit", "as_handler", "as_units"]


class UnknownUnit(Enum):
    """What a request to a unit without a handler gets."""

    TARGET_FAILED = ExceptionCode.GATEWAY_TARGET_FAILED_TO_RESPOND
    """Exception 0B, as a gateway says of a device that is not there."""

    PATH_UNAVAILABLE = ExceptionCode.GATEWAY_PATH_UNAVAILABLE
    """Exception 0A."""

    SILENT = 0
    """Nothing, as on a serial line."""


class Station(NamedTuple):
    """A handler with what the pipeline asks of it, looked up once."""

    handler: Handler
    local: LocalHandler | None
    diagnostics: Diagnostics | None


HandlerLike = Handler | HandlerFunction | Bank


class Units:
    """One device for every unit, or a map of units to devices.

    Args:
        devices: a handler, a function or a bank for every unit; or a mapping of unit, 0..255, to
            such.
        unknown: what a unit outside the mapping gets.

    Raises:
        ConfigurationError: it is none of these, or the mapping is empty.
        UsageError: a unit is outside 0..255.
    """

    def __init__(
        self,
        devices: HandlerLike | Mapping[int, HandlerLike],
        unknown: UnknownUnit = UnknownUnit.TARGET_FAILED,
    ) -> None:
        self.unknown = unknown
        self._default: Station | None = None
        self._stations: dict[int, Station] = {}
        if isinstance(devices, Mapping):
            if not devices:
                raise ConfigurationError("no unit has a handler: give at least one, or one handler for all units")
            known: dict[int, Station] = {}
            for unit, device in devices.items():
                station = known.setdefault(id(device), _station(device))
                self._stations[check_unit(unit)] = station
        else:
            self._default = _station(devices)

    def station(self, unit: int) -> Station | None:
        """Who answers for this unit; None: nobody, see ``unknown``."""
        return self._stations.get(unit, self._default)

    @property
    def devices(self) -> dict[int, Station]:
        """Each device once, by the first unit that it answers for; by 0 if it answers for all."""
        if self._default is not None:
            return {0: self._default}
        first: dict[int, int] = {}
        for unit, station in self._stations.items():
            first.setdefault(id(station), unit)
        return {unit: self._stations[unit] for unit in first.values()}

    @property
    def handlers(self) -> list[Handler]:
        """Every handler once."""
        stations = [*self._stations.values(), *([self._default] if self._default else [])]
        return list({id(station.handler): station.handler for station in stations}.values())

    def __repr__(self) -> str:
        return "<Units all>" if self._default else f"<Units {sorted(self._stations)}>"


def as_handler(device: HandlerLike) -> Handler:
    """A handler of what a user gives: a handler, a function or a bank.

    Raises:
        ConfigurationError: it is none of these.
    """
    if isinstance(device, Bank):
        return LocalDevice(device)
    if isinstance(device, type):  # forgotten brackets: the class has a handle, but no device
        raise ConfigurationError(f"{device.__name__} is a class: give an instance, {device.__name__}()")
    if isinstance(device, Handler):
        return device
    if callable(device):
        return FunctionHandler(device)
    raise ConfigurationError(
        f"{device!r} cannot answer requests: give a Bank, a function (request, context), or an object with handle()"
    )


UnitSource = HandlerLike | Mapping[int, HandlerLike] | Units
"""What a server takes: one device for every unit, a map of units to devices, or ready units."""


def as_units(source: UnitSource) -> Units:
    """Units of what a user gives to a server.

    Raises:
        ConfigurationError: it is nothing that can answer.
    """
    return source if isinstance(source, Units) else Units(source)


def _station(device: HandlerLike) -> Station:
    handler = as_handler(device)
    if isinstance(handler, LocalHandler):
        return Station(handler, handler, handler.diagnostics)
    return Station(handler, None, None)
