"""What a client does by default, and the bounds of it, in one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, get_args

from everbus.errors import ConfigurationError
from everbus.protocol.client_session import Matching
from everbus.protocol.pdu.table import PUBLIC, FunctionTable

__all__ = ["ClientOptions"]

_MOST_IN_FLIGHT: Final = 1024
_MOST_RETRIES: Final = 100
_DAY_S: Final = 86_400
"""Longer than anybody waits, and shorter than what the system's timers take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """The options of one client. Immutable; validated when built, trusted afterwards.

    Args:
        timeout_s: deadline of a whole call: connecting, waiting for a slot, retries and pauses
            included. Each attempt gets ``timeout_s / (retries + 1)``, a write that is not repeated all of it.
        connect_timeout_s: for a connection to be made; never past the call's own deadline.
        retries: further attempts after the first, for requests that may be repeated.
        max_in_flight: requests open at once on the connection. 1 suits every device; more only where
            the device answers pipelined requests (spec.md 4.4).
        spacing_s: least time from the end of one exchange to the next request, on the connection.
        connect_delay_s: least time from a new connection to its first request.
        matching: how exact an answer's transaction id and unit must be.
        retry_writes: writes are repeated too. A device may then carry one out twice.
        retry_busy_s: repeat after this pause what was answered with exception 06; None: raise.
        source: local address to connect from; empty: the system chooses.
        table: the function codes that the client knows.

    Raises:
        ConfigurationError: an option that cannot work; the message says which.
    """

    timeout_s: float = 3.0
    connect_timeout_s: float = 3.0
    retries: int = 1
    max_in_flight: int = 1
    spacing_s: float = 0.0
    connect_delay_s: float = 0.0
    matching: Matching = "strict"
    retry_writes: bool = False
    retry_busy_s: float | None = None
    source: str = ""
    table: FunctionTable = PUBLIC

    def __post_init__(self) -> None:
        for name in ("timeout_s", "connect_timeout_s"):
            value = getattr(self, name)
            self._demand(name, _is_time(value) and value > 0, "is a time above 0 s, a day at most")
        for name in ("spacing_s", "connect_delay_s"):
            self._demand(name, _is_time(getattr(self, name)), "is a time, 0 s to a day")
        busy = self.retry_busy_s
        self._demand("retry_busy_s", busy is None or _is_time(busy), "is a time, 0 s to a day, or None")
        self._demand("retries", _is_count(self.retries, 0, _MOST_RETRIES), f"is a whole number, 0 to {_MOST_RETRIES}")
        most = _MOST_IN_FLIGHT
        self._demand("max_in_flight", _is_count(self.max_in_flight, 1, most), f"is a whole number, 1 to {most}")
        self._demand("matching", self.matching in get_args(Matching), f"is one of {', '.join(get_args(Matching))}")

    def _demand(self, name: str, holds: bool, what: str) -> None:
        if not holds:
            raise ConfigurationError(f"{name} {what}, not {getattr(self, name)!r}")


def _is_time(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= _DAY_S


def _is_count(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
