"""Devices on a serial line that others share: whose a request is, and what all of them hear (spec.md 5.1, 5.8)."""

from __future__ import annotations

from typing import Final

from everbus.protocol.codes import DiagnosticCode, ExceptionCode, FunctionCode
from everbus.protocol.framing.base import Frame
from everbus.service.context import ConnectionInfo
from everbus.service.diagnostics import Diagnostics
from everbus.service.pipeline import Pending, Pipeline
from everbus.service.units import Units

__all__ = ["BROADCAST", "Multidrop"]

BROADCAST: Final = 0
"""The unit that means every device; nobody answers."""

_WRITES: Final = frozenset(
    {
        FunctionCode.WRITE_SINGLE_COIL,
        FunctionCode.WRITE_SINGLE_REGISTER,
        FunctionCode.WRITE_MULTIPLE_COILS,
        FunctionCode.WRITE_MULTIPLE_REGISTERS,
        FunctionCode.WRITE_FILE_RECORD,
        FunctionCode.MASK_WRITE_REGISTER,
    }
)
_COMMANDS: Final = tuple(
    bytes((FunctionCode.DIAGNOSTICS, *code.to_bytes(2, "big")))
    for code in (DiagnosticCode.RESTART_COMMUNICATIONS, DiagnosticCode.FORCE_LISTEN_ONLY)
)


class Multidrop:
    """The devices of one server on one serial line.

    Args:
        pipeline: answers their requests.
        units: who they are. Requests to units outside are for devices elsewhere on the line.
    """

    __slots__ = ("_devices", "_diagnostics", "_pipeline", "_units")

    def __init__(self, pipeline: Pipeline, units: Units) -> None:
        self._pipeline = pipeline
        self._units = units
        self._devices = units.devices
        self._diagnostics = [one.diagnostics for one in self._devices.values() if one.diagnostics is not None]

    def is_here(self, unit: int) -> bool:
        """Whether a device of ours has this unit."""
        return self._units.station(unit) is not None

    def answer(self, frame: Frame, connection: ConnectionInfo) -> bytes | Pending | None:
        """The response PDU to a request to one device, or what to wait for, or None: stay silent."""
        station = self._units.station(frame.unit)
        addressed = station.diagnostics if station is not None else None
        for diagnostics in self._diagnostics:
            if diagnostics is not addressed:
                diagnostics.overheard()
        return None if station is None else self._pipeline.answer(frame, connection)

    def broadcast(self, frame: Frame, connection: ConnectionInfo) -> list[Pending]:
        """Let every device execute a request that none of them answers; return what to wait for.

        A device is asked by its own unit, by 0 if it has every unit. What is no write is refused
        and counted.
        """
        answers = [
            self._execute(Frame(unit, frame.pdu), connection, station.diagnostics)
            for unit, station in self._devices.items()
        ]
        return [answer for answer in answers if isinstance(answer, Pending)]

    def _execute(
        self, frame: Frame, connection: ConnectionInfo, diagnostics: Diagnostics | None
    ) -> bytes | Pending | None:
        if diagnostics is not None:
            diagnostics.broadcast = True
        try:
            if frame.pdu[0] in _WRITES or frame.pdu.startswith(_COMMANDS):
                return self._pipeline.answer(frame, connection)
            if diagnostics is not None and diagnostics.received(frame.pdu):
                diagnostics.completed(frame.pdu[0], ExceptionCode.ILLEGAL_FUNCTION)
            return None
        finally:
            if diagnostics is not None:
                diagnostics.broadcast = False

    def overheard(self, answers: int) -> None:
        """Count other devices' answers: every device here has heard them."""
        for diagnostics in self._diagnostics:
            diagnostics.overheard(answers)

    def unsent(self, unit: int, *, timed_out: bool) -> None:
        """Note that the last answer of a unit here did not leave: it could not, or was given up before."""
        station = self._units.station(unit)
        if station is not None and station.diagnostics is not None:
            station.diagnostics.unsent(timed_out=timed_out)

    def misheard(self, frames: int, overruns: int) -> None:
        """Count frames that were not good, and lost characters: every device here has misheard them."""
        for diagnostics in self._diagnostics:
            diagnostics.misheard(frames, overruns)
