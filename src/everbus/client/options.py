"""What a client does by default, and the bounds of it, in one place."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import get_args

from everbus.errors import ConfigurationError
from everbus.protocol.client_session import Matching
from everbus.protocol.pdu.table import PUBLIC, FunctionTable

__all__ = ["ClientOptions"]

_MOST_IN_FLIGHT = 1024


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
            self._demand(name, 0 < getattr(self, name) < inf, "is a time above 0 s")
        for name in ("spacing_s", "connect_delay_s"):
            self._demand(name, 0 <= getattr(self, name) < inf, "is a time, 0 s or more")
        self._demand("retry_busy_s", self.retry_busy_s is None or 0 <= self.retry_busy_s < inf, "is a time, or None")
        self._demand("retries", self.retries >= 0, "is 0 or more")
        self._demand("max_in_flight", 1 <= self.max_in_flight <= _MOST_IN_FLIGHT, f"is 1 to {_MOST_IN_FLIGHT}")
        self._demand("matching", self.matching in get_args(Matching), f"is one of {', '.join(get_args(Matching))}")

    def _demand(self, name: str, holds: bool, what: str) -> None:
        if not holds:
            raise ConfigurationError(f"{name} {what}, not {getattr(self, name)!r}")
