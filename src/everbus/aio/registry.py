"""Who is connected: admission, eviction and removal, in one place.

Nothing here waits or touches a socket. Every operation takes constant time, whatever the number of
connections, but for looking past connections that cannot be evicted.
"""

from __future__ import annotations

from asyncio import Future
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

from everbus.aio.statistics import RegistryStatistics
from everbus.limits import Limits
from everbus.service.authorize import Admission, everybody

__all__ = ["Member", "Registry"]

_SETTLED_S: Final = 1.0
"""A newcomer has this long to ask before it goes ahead of connections that were idle for longer."""

_NEWBORN_S: Final = 0.1
"""Younger than this nobody is evicted: its first request may be in the same burst of packets."""


class Member(Protocol):
    """What the registry knows of a connection."""

    last_active: float
    """When it last completed a request, or was opened."""

    @property
    def host(self) -> str:
        """The peer's address; empty for Unix sockets, which have none."""
        ...

    @property
    def busy(self) -> bool:
        """A request of it is in progress."""
        ...

    @property
    def unsent_bytes(self) -> int:
        """Answers that the peer has not taken."""
        ...

    def sweep(self, now: float) -> None:
        """Enforce its deadlines."""
        ...

    def drain(self) -> None:
        """End it now if it is idle, else after its last answer."""
        ...

    def exempt(self, future: Future[Any]) -> None:
        """Give up the request whose handler this is: it is not waited for, and stays unanswered."""
        ...

    def close(self, reason: str) -> None:
        """End it once its answers are sent."""
        ...

    def abort(self, reason: str) -> None:
        """End it at once; it leaves the registry by ``discard`` when its socket is closed."""
        ...


class _Lane:
    """Connections in the order in which they would be evicted."""

    __slots__ = ("unused", "used")

    def __init__(self) -> None:
        self.unused: OrderedDict[Member, None] = OrderedDict()
        self.used: OrderedDict[Member, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self.unused) + len(self.used)

    def touch(self, member: Member) -> None:
        """It completed a request: it is the most recently active one now."""
        if member in self.used:
            self.used.move_to_end(member)
        elif member in self.unused:
            del self.unused[member]
            self.used[member] = None

    def remove(self, member: Member) -> None:
        if member in self.used:
            del self.used[member]
        else:
            self.unused.pop(member, None)

    def victim(self, now: float, evict_after_s: float) -> Member | None:
        """Who goes when room is needed.

        The oldest that never asked, then the least recently active one that is idle for long
        enough, then a newcomer that has not asked yet.
        """
        return (
            _first(self.unused, now - _SETTLED_S)
            or _first(self.used, now - evict_after_s)
            or _first(self.unused, now - _NEWBORN_S)
        )

    def least_active(self, now: float) -> Member | None:
        """Who goes when a priority peer must come in."""
        return self.victim(now, 0.0) or _first(self.unused, now)


def _first(members: OrderedDict[Member, None], not_after: float) -> Member | None:
    for member in members:
        if member.last_active > not_after:
            return None  # all behind it are younger
        if not member.busy:
            return member
    return None


class _Bucket:
    """Tokens of one peer: so many connects a second, and one second's worth at once."""

    __slots__ = ("stamp", "tokens")

    def __init__(self, tokens: float, now: float) -> None:
        self.tokens = tokens
        self.stamp = now

    def take(self, rate: float, now: float) -> bool:
        self.tokens = min(max(rate, 1.0), self.tokens + (now - self.stamp) * rate)
        self.stamp = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class Registry:
    """The live connections of one server.

    Args:
        limits: settled ones, as ``Limits.fitted`` gives them.
        admission: what the policy makes of a peer's address.
    """

    def __init__(self, limits: Limits, admission: Callable[[str], Admission] = everybody) -> None:
        self._limits = limits
        self._admission = admission
        self._everyone = _Lane()
        self._peers: dict[str, _Lane] = {}
        self._priority: set[Member] = set()
        self._leaving: set[Member] = set()
        self._buckets: dict[str, _Bucket] = {}
        self.watched: set[Member] = set()
        """Members with a deadline of their own: an unfinished frame, a blocked write, a handler."""
        self.unsent: set[Member] = set()
        """Members whose last write was not taken whole."""
        self.peak: int = 0

    def __len__(self) -> int:
        """Members whose sockets are not closed yet, those on their way out included."""
        return len(self._everyone) + len(self._priority) + len(self._leaving)

    def __iter__(self) -> Iterator[Member]:
        yield from list(self._everyone.unused)
        yield from list(self._everyone.used)
        yield from list(self._priority)
        yield from list(self._leaving)

    @property
    def admitted(self) -> int:
        """Members that hold a slot."""
        return len(self._everyone) + len(self._priority)

    def statistics(self) -> RegistryStatistics:
        """A snapshot of who is connected."""
        return RegistryStatistics(
            admitted=self.admitted,
            priority=len(self._priority),
            leaving=len(self._leaving),
            peers=len(self._peers),
            peak=self.peak,
            watched=len(self.watched),
            unsent_bytes=self.unsent_bytes,
        )

    def of_peer(self, host: str) -> int:
        """Members of one peer address that hold an ordinary slot."""
        lane = self._peers.get(host)
        return len(lane) if lane else 0

    def admit(self, member: Member, now: float) -> str | None:
        """Give a newcomer a slot, evicting somebody if need be; or say why not.

        Returns:
            None: it is a member now. Else the reason: ``policy``, ``rate``, ``per_peer`` or ``full``.
        """
        limits = self._limits
        admission = self._admission(member.host)
        if admission is Admission.REFUSE:
            return "policy"
        if not self._within_rate(member.host, now):
            return "rate"
        important = admission is Admission.PRIORITY or member.host in limits.priority_peers
        if important and len(self._priority) < (limits.max_priority_connections or 0):
            full = self.admitted >= limits.max_connections
            if full and not self._evict(self._everyone.least_active(now), "evicted_for_priority"):
                return "full"
            self._priority.add(member)
            self.peak = max(self.peak, self.admitted)
            return None
        lane = self._peers.get(member.host) if member.host else None
        if lane is not None and len(lane) >= (limits.max_connections_per_peer or limits.max_connections):
            if limits.full == "refuse" or not self._evict(lane.victim(now, limits.evict_after_s), "evicted_per_peer"):
                return "per_peer"
        elif self.admitted >= limits.max_connections and not self.make_room(now):
            return "full"
        self._add(member)
        return None

    def _add(self, member: Member) -> None:
        self._everyone.unused[member] = None
        if member.host:
            lane = self._peers.get(member.host)
            if lane is None:
                lane = self._peers[member.host] = _Lane()
            lane.unused[member] = None
        if (admitted := self.admitted) > self.peak:
            self.peak = admitted

    def _within_rate(self, host: str, now: float) -> bool:
        rate = self._limits.max_connects_per_peer_per_s
        if rate is None or not host:
            return True
        bucket = self._buckets.setdefault(host, _Bucket(max(rate, 1.0), now))
        return bucket.take(rate, now)

    def make_room(self, now: float) -> bool:
        """Evict one member; tell whether there was one that may be evicted."""
        if self._limits.full == "refuse":
            return False
        victim = self._everyone.victim(now, self._limits.evict_after_s)
        return self._evict(victim, "evicted_unused" if victim in self._everyone.unused else "evicted_idle")

    def _evict(self, victim: Member | None, reason: str) -> bool:
        if victim is None:
            return False
        self._release(victim)
        self._leaving.add(victim)
        victim.abort(reason)
        return True

    def _release(self, member: Member) -> None:
        """Take a member's slot away."""
        self._everyone.remove(member)
        self._priority.discard(member)
        lane = self._peers.get(member.host)
        if lane is not None:
            lane.remove(member)
            if not lane:
                del self._peers[member.host]

    def touch(self, member: Member) -> None:
        """A member completed requests; its ``last_active`` is up to date."""
        self._everyone.touch(member)
        lane = self._peers.get(member.host)
        if lane is not None:
            lane.touch(member)

    def discard(self, member: Member) -> None:
        """A member's socket is closed: the one place where it leaves."""
        self._release(member)
        self._leaving.discard(member)
        self.watched.discard(member)
        self.unsent.discard(member)

    def sweep(self, now: float) -> None:
        """Enforce what depends on time: each watched member's deadlines, idleness, the buffer cap."""
        for member in tuple(self.watched):
            member.sweep(now)
        for member in self.idle(now):
            member.close("idle")
        self.shed()
        self._forget_rates(now)

    def idle(self, now: float) -> list[Member]:
        """Members without a request for longer than the idle timeout."""
        limit = now - self._limits.idle_timeout_s
        overdue: list[Member] = []
        for lane in (self._everyone.unused, self._everyone.used):
            for member in lane:
                if member.last_active > limit:
                    break
                if not member.busy:
                    overdue.append(member)
        overdue += [m for m in self._priority if m.last_active <= limit and not m.busy]
        return overdue

    def shed(self) -> list[Member]:
        """Abort whoever holds most unsent answers until all of them together are within the cap."""
        sizes = {member: member.unsent_bytes for member in self.unsent}
        self.unsent = {member for member, size in sizes.items() if size}
        total = sum(sizes.values())
        aborted: list[Member] = []
        while total > self._limits.max_buffered_bytes:
            largest = max(sizes, key=sizes.__getitem__)
            total -= sizes.pop(largest)
            aborted.append(largest)
            largest.abort("buffer_limit")
        return aborted

    @property
    def unsent_bytes(self) -> int:
        """Unsent answers in the whole server."""
        return sum(member.unsent_bytes for member in tuple(self.unsent))  # any thread may ask

    def _forget_rates(self, now: float) -> None:
        """Drop the buckets that are full again, so that strangers leave nothing behind."""
        rate = self._limits.max_connects_per_peer_per_s
        if rate is not None:
            full_after_s = max(1.0, 1 / rate)
            self._buckets = {host: b for host, b in self._buckets.items() if now - b.stamp < full_after_s}
