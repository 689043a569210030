"""When the next request may go out: spacing on the link, spacing of one unit, a pause after connect.

For devices that miss what comes too soon (spec.md 8: 20 to 500 ms between requests, 1 to 5 s after connect).
"""

from __future__ import annotations

from typing import Final

from everbus.client.endpoint import Endpoint
from everbus.client.options import ClientOptions
from everbus.errors import ConfigurationError, ModbusTimeoutError
from everbus.protocol.client_session import BROADCAST_UNIT
from everbus.protocol.framing.timing import BETWEEN_FRAMES, silent_interval_s

__all__ = ["QUIET_S", "TURNAROUND_S", "Pacing", "Silence", "least_spacing_s"]

QUIET_S: Final = 0.1
"""A serial line that was silent for so long has no late answer under way, as far as one waits for it."""

TURNAROUND_S: Final = 0.15
"""After a broadcast on a serial line, so that every device has carried it out (SL 2.4.1: 100 to 200 ms)."""


class Silence:
    """How long a serial line has to be left alone before it is used again; any monotonic clock.

    Args:
        peer: the line, for messages.
    """

    __slots__ = ("_from", "_peer")

    def __init__(self, peer: str) -> None:
        self._peer = peer
        self._from = 0.0

    def broken(self, now: float) -> None:
        """Something was heard, or what was asked has no answer yet: it has to be silent from now on."""
        self._from = now

    def left_s(self, now: float, until: float) -> float:
        """How long it still has to be silent; 0: no more.

        Raises:
            ModbusTimeoutError: for longer than whoever wants to use it has time.
        """
        left_s = self._from + QUIET_S - now
        if left_s <= 0:
            return 0.0
        if now + left_s >= until:
            raise ModbusTimeoutError(
                f"{self._peer} has not been quiet for {QUIET_S} s since an answer failed: it may be asked "
                f"{left_s:.3g} s from now"
            )
        return left_s


def least_spacing_s(endpoint: Endpoint) -> float:
    """What a link itself wants between an answer and the next request: the silence between frames of a serial line."""
    return silent_interval_s(BETWEEN_FRAMES, endpoint.serial.baudrate) if endpoint.serial is not None else 0.0


class Pacing:
    """The pauses of one link, in seconds of any monotonic clock.

    Args:
        options: spacing and delay to start with.
        least_s: what the link itself wants between an answer and the next request; above 0 it is a
            serial line.
    """

    __slots__ = ("_least_s", "_link_at", "_unit_at", "_unit_spacing_s", "connect_delay_s", "in_use", "spacing_s")

    def __init__(self, options: ClientOptions, least_s: float = 0.0) -> None:
        self.spacing_s: float = max(options.spacing_s, least_s)
        self.connect_delay_s: float = options.connect_delay_s
        self._least_s = least_s
        self._unit_spacing_s: dict[int, float] = {}
        self._link_at = 0.0
        self._unit_at: dict[int, float] = {}
        self.in_use: bool = bool(self.spacing_s or self.connect_delay_s)
        """Somebody wants pauses; without, nobody needs to ask."""

    def space_unit(self, unit: int, spacing_s: float) -> None:
        """Leave one unit alone for so long after each exchange with it; 0 ends that.

        Raises:
            ConfigurationError: the time is negative.
        """
        if not spacing_s >= 0:
            raise ConfigurationError(f"a spacing is a time, 0 s or more, not {spacing_s!r}")
        if spacing_s:
            self._unit_spacing_s[unit] = spacing_s
            self.in_use = True
        else:
            self._unit_spacing_s.pop(unit, None)
            self._unit_at.pop(unit, None)

    def delay_connect(self, delay_s: float) -> None:
        """Leave a new connection alone for at least so long: the longest that anybody asked for counts.

        Raises:
            ConfigurationError: the time is negative.
        """
        if not delay_s >= 0:
            raise ConfigurationError(f"a connect delay is a time, 0 s or more, not {delay_s!r}")
        self.connect_delay_s = max(self.connect_delay_s, delay_s)
        self.in_use = self.in_use or delay_s > 0

    def connected(self, now: float) -> None:
        """A new connection is there."""
        self._link_at = now + self.connect_delay_s

    def begun(self, unit: int, now: float) -> None:
        """An exchange with a unit begins: of several at once, each keeps its distance to the one before."""
        spacing_s = self._unit_spacing_s.get(unit)
        if spacing_s is not None:
            self._unit_at[unit] = now + spacing_s

    def ended(self, unit: int, now: float) -> None:
        """An exchange with a unit is over, whatever came of it."""
        if self.spacing_s:
            broadcast = unit == BROADCAST_UNIT and self._least_s
            self._link_at = now + (max(TURNAROUND_S, self.spacing_s) if broadcast else self.spacing_s)
        if self._unit_spacing_s:
            spacing_s = self._unit_spacing_s.get(unit)
            if spacing_s is not None:
                self._unit_at[unit] = now + spacing_s

    def link_ready_at(self) -> float:
        """When the link may be used."""
        return self._link_at

    def unit_ready_at(self, unit: int) -> float:
        """When this unit may be asked."""
        return self._unit_at.get(unit, 0.0)
