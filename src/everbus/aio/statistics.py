"""What a server says of itself: what it has done, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = [
    "ConnectionStatistics",
    "Drained",
    "Forced",
    "ListenerStatistics",
    "PortState",
    "RegistryStatistics",
    "SerialStatistics",
    "ServerStatistics",
    "UdpStatistics",
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
        aborted: how many of them were cut off, and UDP and serial ports with an unanswered request.
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
        handshake_failures: TLS connections that came to nothing, by reason.
        refused_requests: answered with exception 06 because too many wait, by the limit's name.
        abandoned_answers: answers that could not be sent, by reason.
        rejected_frames: streams that were not Modbus; frames on RTU and ASCII and datagrams that were
            dropped; by reason.
        requests: complete requests received.
        exceptions: answered with an exception.
        handler_failures: handlers that raised, answered nonsense or timed out, by reason.
        accept_errors: by error name; ``setup``, ``relisten ...`` and ``receive ...`` (UDP) for what
            comes after, around and instead of accept.
        relistens: listening sockets and ports that were lost and opened again.
        listeners: listening sockets and ports open now.
        unsent_bytes: answers that peers have not taken.
        loop_lags: how often the loop was seen blocked.
        max_loop_lag_s: the longest of these.
        observer_failures: how often the observer raised.
        ports: what each UDP socket and serial line has done, by its URL.
    """

    connections: int
    peak_connections: int
    max_connections: int
    opened: int
    closed: int
    closed_by_reason: dict[str, int]
    refused_by_reason: dict[str, int]
    handshake_failures: dict[str, int]
    refused_requests: dict[str, int]
    abandoned_answers: dict[str, int]
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
    ports: dict[str, UdpStatistics | SerialStatistics]


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


@dataclass(frozen=True, slots=True)
class UdpStatistics:
    """What one UDP port has done.

    Args:
        listening: its socket is open.
        reopened: how often it was lost and bound again.
        requests: good requests received.
        in_flight: of these, how many wait for their handlers.
        peers: addresses that are remembered.
        forgotten: how many were, until others came.
    """

    listening: bool
    reopened: int
    requests: int
    in_flight: int
    peers: int
    forgotten: int


PortState: TypeAlias = Literal["new", "opening", "open", "lost", "closed"]


@dataclass(frozen=True, slots=True)
class SerialStatistics:
    """What a server has done on one serial port.

    Args:
        state: ``new``, ``opening``, ``open``, ``lost`` (and tried again) or ``closed``.
        opened: how often the port was opened.
        lost: how often it was lost.
        failed: tries to open it that failed.
        problem: why it is not open; empty: it is.
        requests: to units here, broadcasts included.
        broadcasts: of these, to all units.
        answers: sent.
        unanswered: requests whose answer was given up, by reason: ``overtaken`` by another message
            on the line, ``not_sent``, ``port_lost``, ``overload``, ``closed``.
        foreign: messages to and from other devices on the line.
        checksum_errors: frames of the right form whose checksum was wrong.
        malformed: what had not even the form.
        discarded_bytes: bytes that belonged to no good frame.
        echo_errors: how often something else came back than what was sent.
        overruns: characters that hardware or driver lost, as far as they tell.
    """

    state: PortState
    opened: int
    lost: int
    failed: int
    problem: str
    requests: int
    broadcasts: int
    answers: int
    unanswered: dict[str, int]
    foreign: int
    checksum_errors: int
    malformed: int
    discarded_bytes: int
    echo_errors: int
    overruns: int
