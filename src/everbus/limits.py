"""Every bound of a server, in one place, each with its unit, its default and its reason.

This module declares; each bound is enforced in exactly one other place, named in its description.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal, Self

from everbus.errors import ConfigurationError

__all__ = ["DESCRIPTOR_RESERVE", "MIN_CONNECTIONS", "Limits"]

DESCRIPTOR_RESERVE: Final = 64
"""Descriptors that connections leave free for the program, its logs and a burst of accepts."""

_EXPECTED_OPEN: Final = 32
"""How many of the reserve a process may use for itself before the limit is lowered further."""

MIN_CONNECTIONS: Final = 16
"""With fewer usable connections than this, start is refused: the server would serve nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds of one server. Immutable; validated when built, trusted afterwards.

    Args:
        max_connections: connections in all; lowered at start to what the descriptor limit allows
            less a reserve of 64, so that "too many open files" is never of our own doing.
            (aio.registry)
        max_connections_per_peer: connections of one address; None: half of the effective
            ``max_connections``, so that one client cannot lock out the rest. Unix sockets have no
            peer address and are not counted. (aio.registry)
        max_connects_per_peer_per_s: new connections of one address a second, a token bucket of
            one second's worth; None: off. (aio.registry)
        full: what to do with a newcomer when a cap is reached: ``evict`` a connection that never
            completed a request, or one idle over ``evict_after_s``; or ``refuse`` the newcomer.
            (aio.registry)
        evict_after_s: idle time before a connection may be evicted. (aio.registry)
        priority_peers: addresses whose connections are never evicted and are admitted when full,
            up to ``max_priority_connections``. (aio.registry)
        max_priority_connections: None: a quarter of the effective ``max_connections``.
            (aio.registry)
        idle_timeout_s: closes a connection without a request for this long; slow SCADA polls
            live, keepalive finds the dead sooner. (aio.registry)
        keepalive_idle_s, keepalive_interval_s, keepalive_probes: TCP keepalive: a dead idle peer
            is gone in about 90 s. (aio.listener)
        user_timeout_s: TCP_USER_TIMEOUT: a dead peer with data in flight is gone in 90 s; shorter
            would override the probes. (aio.listener)
        handshake_timeout_s: of TLS, from the accepted connection to the end of the handshake.
            (aio.handshakes)
        max_handshakes: of TLS, in progress at once: as many ClientHellos in one turn of the loop
            keep the others waiting for 30 ms; the newest begins first, and the one that stalled
            longest makes way for it after 1 s. (aio.handshakes)
        frame_timeout_s: from the first byte of a frame to its last: half frames do not hold a
            slot. (aio.connection)
        frame_gap_s: on RTU and ASCII over TCP, where frames have no ids and noise may look like the
            start of a long one: after this silence what is held is complete or lost, and the
            connection stays. The longest pause that ASCII allows inside a frame. (aio.line)
        write_timeout_s: with the output buffer over ``write_high_water_bytes``: peers that never
            read; reading pauses
            meanwhile. Also for a connection that closes. (aio.connection)
        write_high_water_bytes: unsent answers of one connection before it stops reading.
            (aio.connection)
        handler_timeout_s: an asynchronous handler's time; then exception 04, and its late result
            is discarded. (aio.connection)
        max_in_flight: requests of one connection that wait for asynchronous handlers; then it
            stops reading, and nothing is lost. (protocol.server_session)
        max_buffered_bytes: unsent answers in the whole server; then the connection with the most
            is closed: memory is bounded whatever the number of clients. (aio.registry)
        max_udp_peers: peers whose requests are counted one by one; then the one that was silent
            longest is forgotten, so that forged addresses leave nothing behind. (aio.udp)
        max_udp_in_flight: requests of all UDP peers that wait for asynchronous handlers, of each
            peer ``max_in_flight``; then the next is answered with exception 06, busy, as reading
            cannot stop for one peer alone. (aio.udp)
        datagrams_per_wakeup: datagrams read in one turn of the loop, then the others have theirs.
            (aio.udp)
        stop_timeout_s: time for busy connections to finish when the server stops. (aio.server)
        accepts_per_wakeup: connections accepted in one turn of the loop: at 16 a storm of connects
            keeps the others within 50 ms, at 64 it does not. (aio.listener)
        backlog: connections that the kernel queues. (aio.listener)

    Raises:
        ConfigurationError: a bound cannot work; the message names it and the range that can.
    """

    max_connections: int = 1024
    max_connections_per_peer: int | None = None
    max_connects_per_peer_per_s: float | None = None
    full: Literal["evict", "refuse"] = "evict"
    evict_after_s: float = 10.0
    priority_peers: frozenset[str] = frozenset()
    max_priority_connections: int | None = None
    idle_timeout_s: float = 600.0
    keepalive_idle_s: int = 60
    keepalive_interval_s: int = 10
    keepalive_probes: int = 3
    user_timeout_s: float = 90.0
    handshake_timeout_s: float = 10.0
    max_handshakes: int = 64
    frame_timeout_s: float = 5.0
    frame_gap_s: float = 1.0
    write_timeout_s: float = 10.0
    write_high_water_bytes: int = 64 * 1024
    handler_timeout_s: float = 5.0
    max_in_flight: int = 16
    max_buffered_bytes: int = 64 * 1024 * 1024
    max_udp_peers: int = 1024
    max_udp_in_flight: int = 256
    datagrams_per_wakeup: int = 64
    stop_timeout_s: float = 5.0
    accepts_per_wakeup: int = 16
    backlog: int = 1024

    def __post_init__(self) -> None:
        for name in _COUNTS:
            value = getattr(self, name)
            most = _MOST.get(name, _MOST_COUNT)
            if not (_is_open(name, value) or (type(value) is int and 1 <= value <= most)):
                raise ConfigurationError(f"{name} is a whole number of at least 1 and at most {most}, not {value!r}")
        for name in _DURATIONS:
            value = getattr(self, name)
            if not (_is_open(name, value) or (_is_number(value) and 0 < value <= _MOST_S)):
                raise ConfigurationError(f"{name} is a number above 0 and at most {_MOST_S:g}, not {value!r}")
        for name in ("stop_timeout_s", "evict_after_s"):
            value = getattr(self, name)
            if not (_is_number(value) and 0 <= value <= _MOST_S):
                raise ConfigurationError(f"{name} is a number of 0 to {_MOST_S:g}, not {value!r}")
        if not isinstance(self.priority_peers, frozenset):
            raise ConfigurationError(f"priority_peers is a frozenset of addresses, not {self.priority_peers!r}")
        if self.full not in ("evict", "refuse"):
            raise ConfigurationError(f"full is 'evict' or 'refuse', not {self.full!r}")

    def fitted(self, descriptor_limit: int, open_descriptors: int) -> Self:
        """These limits with every open number settled, lowered to what the process can hold.

        Args:
            descriptor_limit: the soft RLIMIT_NOFILE in force.
            open_descriptors: descriptors open now.

        Raises:
            ConfigurationError: fewer than 16 connections would be usable.
        """
        taken = DESCRIPTOR_RESERVE + max(0, open_descriptors - _EXPECTED_OPEN)
        usable = min(self.max_connections, descriptor_limit - taken)
        if usable < min(self.max_connections, MIN_CONNECTIONS):
            raise ConfigurationError(
                f"a descriptor limit of {descriptor_limit} leaves room for {max(usable, 0)} connections, "
                f"{min(self.max_connections, MIN_CONNECTIONS)} are the least that make sense; "
                f"raise the limit (ulimit -n {descriptor_limit + 1024}) or close descriptors "
                f"({open_descriptors} are open)"
            )
        per_peer = self.max_connections_per_peer or max(1, usable // 2)
        priority = self.max_priority_connections or max(1, usable // 4)
        return replace(
            self,
            max_connections=usable,
            max_connections_per_peer=min(per_peer, usable),
            max_priority_connections=min(priority, usable),
        )

    @property
    def sweep_s(self) -> float:
        """How often deadlines are looked at: a quarter of the shortest, within 0.05 to 1 s."""
        shortest = min(
            self.idle_timeout_s,
            self.handshake_timeout_s,
            self.frame_timeout_s,
            self.write_timeout_s,
            self.handler_timeout_s,
        )
        return min(1.0, max(0.05, shortest / 4))


_COUNTS: Final = (
    "max_connections",
    "max_connections_per_peer",
    "max_priority_connections",
    "keepalive_idle_s",
    "keepalive_interval_s",
    "keepalive_probes",
    "write_high_water_bytes",
    "max_in_flight",
    "max_buffered_bytes",
    "max_handshakes",
    "max_udp_peers",
    "max_udp_in_flight",
    "datagrams_per_wakeup",
    "accepts_per_wakeup",
    "backlog",
)
_DURATIONS: Final = (
    "max_connects_per_peer_per_s",
    "idle_timeout_s",
    "user_timeout_s",
    "handshake_timeout_s",
    "frame_timeout_s",
    "frame_gap_s",
    "write_timeout_s",
    "handler_timeout_s",
)
_MOST_S: Final = 1_000_000
_MOST_COUNT: Final = 2**40
_MOST: Final = {"keepalive_idle_s": 32767, "keepalive_interval_s": 32767, "keepalive_probes": 127, "backlog": 65535}
"""What the kernel takes for these."""

_MAY_BE_OPEN: Final = ("max_connections_per_peer", "max_priority_connections", "max_connects_per_peer_per_s")


def _is_open(name: str, value: object) -> bool:
    return value is None and name in _MAY_BE_OPEN


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
