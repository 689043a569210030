"""What a server says of itself: what it has done, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "ConnectionStatistics",
    "Drained",
    "Forced",
    "ListenerStatistics",
    "RegistryStatistics",
    "ServerStatistics",
]


@dataclass(frozen=True, slots=True)
class Drained:
    """The server stopped and every request that it had read was answered.

    Not waited for: the request of a handler that itself called ``stop``.

    Args:
        connections: how many were open when it began to stop.
    """

    connections: int


@dataclass(frozen=True, slots=True)
class Forced:
    """The server stopped at its deadline.

    Args:
        connections: how many were open when it began to stop.
        aborted: how many of them were cut off.
    """

    connections: int
    aborted: int


@dataclass(frozen=True, slots=True)
class ServerStatistics:
    """What a server has done since its start.

    Args:
        connections: open now.
        peak_connections: most at once.
        max_connections: the effective limit.
        opened, closed: connections since the start; they differ by ``connections``.
        closed_by_reason: ``peer_closed``, ``reset``, ``idle``, ``evicted_unused``, ``frame_timeout`` ...
        refused_by_reason: newcomers closed at once: ``full``, ``per_peer``, ``rate``,
            ``descriptors``.
        rejected_frames: streams that were not Modbus, by reason.
        requests: complete requests received.
        exceptions: answered with an exception.
        handler_failures: handlers that raised, answered nonsense or timed out, by reason.
        accept_errors: by error name; ``setup`` and ``relisten ...`` for what comes after and around accept.
        relistens: listening sockets that were lost and opened again.
        listeners: listening sockets open now.
        unsent_bytes: answers that peers have not taken.
        loop_lags: how often the loop was seen blocked.
        max_loop_lag_s: the longest of these.
        observer_failures: how often the observer raised.
    """

    connections: int
    peak_connections: int
    max_connections: int
    opened: int
    closed: int
    closed_by_reason: dict[str, int]
    refused_by_reason: dict[str, int]
    rejected_frames: dict[str, int]
    requests: int
    exceptions: int
    handler_failures: dict[str, int]
    accept_errors: dict[str, int]
    relistens: int
    listeners: int
    unsent_bytes: int
    loop_lags: int
    max_loop_lag_s: float
    observer_failures: int


@dataclass(frozen=True, slots=True)
class ConnectionStatistics:
    """What one connection has done."""

    requests: int
    in_flight: int
    unsent_bytes: int
    opened_at: float
    last_active: float


@dataclass(frozen=True, slots=True)
class ListenerStatistics:
    """What one listener has done.

    Args:
        listening: its socket is open.
        relistens: how often it was lost and opened again.
        paused_s: how long accepting pauses because descriptors have run out; 0: it does not.
    """

    listening: bool
    relistens: int
    paused_s: float


@dataclass(frozen=True, slots=True)
class RegistryStatistics:
    """Who is connected.

    Args:
        admitted: connections that hold a slot.
        priority: those of them of priority peers.
        leaving: connections without a slot whose sockets are not closed yet.
        peers: addresses that hold ordinary slots.
        peak: most admitted at once.
        watched: connections with a deadline of their own running.
        unsent_bytes: answers that peers have not taken.
    """

    admitted: int
    priority: int
    leaving: int
    peers: int
    peak: int
    watched: int
    unsent_bytes: int
