"""Who may use which link, and when: the decisions of a pool of links.

A link is one connection to one endpoint, lent to one user at a time. The core opens and closes nothing and reads no
clock. A host tells it what happened, and carries out the actions that come back, in their order. Links are numbers
that the host maps to connections. It serialises the calls and takes ``now``, in seconds, from one monotonic clock.

``acquire`` grants a link, puts the user in a queue until a ``Wake`` comes, or refuses. Whoever has a grant opens the
link (and says ``opened``), checks it or just uses it, as the grant says, and ends with ``release`` or ``cancel``.
After every call nobody waits for a link that could be granted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from itertools import count
from math import inf
from typing import Final, Literal, TypeAlias

from everbus.errors import ConfigurationError, PoolExhaustedError, UsageError

__all__ = ["Action", "Close", "Grant", "PoolCore", "PoolOptions", "PoolStatistics", "Refused", "Wait", "Wake"]

CloseReason: TypeAlias = Literal["closed", "connect", "evicted", "idle", "lifetime", "stale", "unclean"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOptions:
    """The bounds of one pool. Immutable; validated when built, trusted afterwards.

    Args:
        max_links_per_endpoint: links to one endpoint; many devices take one connection only.
        max_links: links in all. When they are reached, the least recently used idle one makes room.
        max_waiters: users in all that wait for a link; 0: nobody waits.
        idle_timeout_s: an idle link is closed after this time.
        max_lifetime_s: an older link is not lent again and closed when it is idle; None: no limit.
        check_after_s: a link that was idle for so long is checked before it is used.

    Raises:
        ConfigurationError: a bound that cannot work; the message names it.
    """

    max_links_per_endpoint: int = 1
    max_links: int = 64
    max_waiters: int = 1000
    idle_timeout_s: float = 60.0
    max_lifetime_s: float | None = 3600.0
    check_after_s: float = 30.0

    def __post_init__(self) -> None:
        for name, least in (("max_links_per_endpoint", 1), ("max_links", 1), ("max_waiters", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ConfigurationError(f"{name} is a whole number of at least {least}, not {value!r}")
        times = {"idle_timeout_s": "above 0 s", "max_lifetime_s": "above 0 s, or None", "check_after_s": "from 0 s on"}
        for name, what in times.items():
            value = getattr(self, name)
            fits = type(value) in (int, float) and 0 <= value < inf and (value > 0 or name == "check_after_s")
            if not fits and not (value is None and name == "max_lifetime_s"):
                raise ConfigurationError(f"{name} is a time {what}, not {value!r}")


@dataclass(frozen=True, slots=True)
class Grant:
    """A link is yours until you ``release`` or ``cancel``.

    Args:
        token: names this loan; given back exactly once.
        link: the link's number.
        step: what comes first. ``use``: nothing. ``open``: connect and say ``opened``, or release it as not clean.
            ``check``: see whether the peer is still there; if not, ``replace`` it.
    """

    token: int
    link: int
    step: Literal["use", "open", "check"]


@dataclass(frozen=True, slots=True)
class Wait:
    """You are in the queue: a ``Wake`` with this token follows, unless you ``cancel``."""

    token: int


@dataclass(frozen=True, slots=True)
class Refused:
    """No link: none was free by the ``deadline``, the queue is ``full``, or the pool is ``closed``."""

    reason: Literal["closed", "deadline", "full"]

    def error(self, key: Hashable, wait_s: float) -> PoolExhaustedError:
        """What its user is told."""
        return PoolExhaustedError(_WHY[self.reason].format(key=key, wait_s=wait_s))


_WHY: Final = {
    "deadline": "every connection to {key} was in use for {wait_s:.3g} s; is the device slow, are more allowed?",
    "full": "too many wait for connections already; {key} was not asked",
    "closed": "the pool is closed",
}


@dataclass(frozen=True, slots=True)
class Close:
    """The host closes this link, or gives up opening it, and forgets it."""

    link: int
    reason: CloseReason


@dataclass(frozen=True, slots=True)
class Wake:
    """The wait of this token is over."""

    token: int
    outcome: Grant | Refused


Action: TypeAlias = Close | Wake


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStatistics:
    """What a pool has, and has done. Who acquired was granted, timed out, refused, cancelled, or is waiting.

    Args:
        links, idle, lent: links in all; ready to be lent; with users, those being opened included.
        peak: most links at once.
        waiting: users in the queues.
        endpoints: those with links or waiters; of others nothing is kept.
        opened: links that were opened.
        closed_by_reason: links that are gone. ``connect``: never opened; ``unclean``: as ``discarded_unclean``;
            ``stale``: replaced; ``evicted``: made room for another endpoint; ``closed``: with the pool.
        granted: loans, at once or after a wait.
        timed_out: users whose deadline passed before a link was free.
        refused: users turned away: the queue was full, or the pool closed.
        cancelled: users that left the queue by themselves.
        wait_s, longest_wait_s: time in the queue of all who left it: in total, and of the one who waited longest.
    """

    links: int
    idle: int
    lent: int
    peak: int
    waiting: int
    endpoints: int
    opened: int
    closed_by_reason: dict[CloseReason, int]
    granted: int
    timed_out: int
    refused: int
    cancelled: int
    wait_s: float
    longest_wait_s: float

    @property
    def discarded_unclean(self) -> int:
        """Links closed because their last exchange did not end provably clean."""
        return self.closed_by_reason.get("unclean", 0)


@dataclass(slots=True, eq=False)
class _Endpoint:
    key: Hashable
    links: int = 0
    idle: dict[int, _Link] = field(default_factory=dict)  # the last was used last
    waiters: dict[int, None] = field(default_factory=dict)  # the first came first


@dataclass(slots=True, eq=False)
class _Link:
    number: int
    endpoint: _Endpoint
    opened_at: float = inf  # not yet
    idle_since: float = 0.0
    expires_at: float = 0.0


@dataclass(slots=True, eq=False)
class _Waiter:
    endpoint: _Endpoint
    since: float
    deadline: float


class PoolCore:
    """The pool's state, and the rules.

    Users of one endpoint are served in the order they came; where ``max_links`` holds them up, users of all endpoints
    are: a link that comes back may then be closed for another endpoint, whose user waited longer.
    """

    def __init__(self, options: PoolOptions | None = None) -> None:
        self._options = options or PoolOptions()
        lifetime_s = self._options.max_lifetime_s
        self._lifetime_s = inf if lifetime_s is None else lifetime_s
        self._tokens = count(1)
        self._numbers = count(1)
        self._endpoints: dict[Hashable, _Endpoint] = {}
        self._idle: dict[int, _Link] = {}  # the first was used least recently
        self._lent: dict[int, _Link] = {}
        self._waiters: dict[int, _Waiter] = {}
        self._next_at = inf  # nothing ends before
        self._closed = False
        self._closed_by_reason: Counter[CloseReason] = Counter()
        self._peak = self._opened = self._granted = self._timed_out = self._refused = self._cancelled = 0
        self._wait_s = self._longest_wait_s = 0.0

    def acquire(self, key: Hashable, now: float, deadline: float) -> tuple[Grant | Wait | Refused, list[Action]]:
        """Ask for a link to the endpoint ``key``; at ``deadline`` a wait ends. The actions come before the grant."""
        actions = self.expire(now)
        if self._closed:
            self._refused += 1
            return Refused("closed"), actions
        if deadline <= now:
            self._timed_out += 1
            return Refused("deadline"), actions
        endpoint = self._endpoints.get(key) or _Endpoint(key)
        if self._servable(endpoint):
            return self._grant(endpoint, next(self._tokens), now, actions), actions
        if len(self._waiters) >= self._options.max_waiters:
            self._refused += 1
            return Refused("full"), actions
        token = next(self._tokens)
        self._endpoints[key] = endpoint
        endpoint.waiters[token] = None
        self._waiters[token] = _Waiter(endpoint, now, deadline)
        self._next_at = min(self._next_at, deadline)
        return Wait(token), actions

    def opened(self, token: int, now: float) -> None:
        """The link that this token was to open is open.

        Raises:
            UsageError: it was open before, or the token has no link.
        """
        link = self._lent_to(token)
        if link.opened_at < inf:
            raise UsageError(f"link {link.number} is open already")
        link.opened_at = now
        self._opened += 1

    def replace(self, token: int, now: float) -> tuple[Grant | Refused, list[Action]]:
        """The link of this token is of no use: open another one instead, without a wait.

        The token stays in force; once the pool is closed it keeps the link it has, to be released.

        Raises:
            UsageError: the token has no link.
        """
        link = self._lent_to(token)
        actions = self.expire(now)
        if self._closed:
            return Refused("closed"), actions
        self._drop(link, "stale" if link.opened_at < inf else "connect", actions)
        self._lent[token] = new = self._new_link(link.endpoint)
        return Grant(token, new.number, "open"), actions

    def release(self, token: int, now: float, *, clean: bool) -> list[Action]:
        """Give a link back. ``clean``: its last exchange provably ended, nothing of it can still arrive.

        Raises:
            UsageError: the token has no link (given back before, perhaps), or a clean link was never opened.
        """
        link = self._lent_to(token)
        if clean and link.opened_at == inf:
            raise UsageError(f"link {link.number} was not opened: it cannot be clean")
        actions = self.expire(now)
        del self._lent[token]
        if not clean:
            self._drop(link, "unclean" if link.opened_at < inf else "connect", actions)
        elif self._closed:
            self._drop(link, "closed", actions)
        elif now >= link.opened_at + self._lifetime_s:
            self._drop(link, "lifetime", actions)
        else:
            self._idle[link.number] = link.endpoint.idle[link.number] = link
            link.idle_since = now
            link.expires_at = min(now + self._options.idle_timeout_s, link.opened_at + self._lifetime_s)
            self._next_at = min(self._next_at, link.expires_at)
        self._serve(now, actions)
        return actions

    def cancel(self, token: int, now: float) -> list[Action]:
        """Give up, granted or not: who waits leaves the queue, who has a link releases it as not clean.

        Raises:
            UsageError: the token neither waits nor has a link.
        """
        if token not in self._waiters:
            return self.release(token, now, clean=False)
        self._forget(self._leave(token, now))
        self._cancelled += 1
        return self.expire(now)

    def expire(self, now: float) -> list[Action]:
        """End the waits and the idle links whose time has come. Other calls with actions do it first."""
        actions: list[Action] = []
        if now < self._next_at:
            return actions
        for token in [token for token, waiter in self._waiters.items() if waiter.deadline <= now]:
            self._forget(self._leave(token, now))
            self._timed_out += 1
            actions.append(Wake(token, Refused("deadline")))
        for link in [link for link in self._idle.values() if link.expires_at <= now]:
            self._drop(link, "lifetime" if now >= link.opened_at + self._lifetime_s else "idle", actions)
        ends = [waiter.deadline for waiter in self._waiters.values()]
        self._next_at = min(ends + [link.expires_at for link in self._idle.values()], default=inf)
        return actions

    def next_deadline(self) -> float | None:
        """When to call ``expire``: something may end then, and nothing before. None: no need."""
        return self._next_at if self._next_at < inf else None

    def close(self, now: float) -> list[Action]:
        """Close idle links, refuse who waits and who comes; a lent link is closed when it comes back. Idempotent."""
        actions = self.expire(now)
        self._closed = True
        for link in list(self._idle.values()):
            self._drop(link, "closed", actions)
        for token in list(self._waiters):
            self._forget(self._leave(token, now))
            self._refused += 1
            actions.append(Wake(token, Refused("closed")))
        return actions

    def statistics(self) -> PoolStatistics:
        """A snapshot."""
        return PoolStatistics(
            links=self._links,
            idle=len(self._idle),
            lent=len(self._lent),
            peak=self._peak,
            waiting=len(self._waiters),
            endpoints=len(self._endpoints),
            opened=self._opened,
            closed_by_reason=dict(self._closed_by_reason),
            granted=self._granted,
            timed_out=self._timed_out,
            refused=self._refused,
            cancelled=self._cancelled,
            wait_s=self._wait_s,
            longest_wait_s=self._longest_wait_s,
        )

    @property
    def _links(self) -> int:
        return len(self._idle) + len(self._lent)

    def _servable(self, endpoint: _Endpoint) -> bool:
        if endpoint.idle or endpoint.links >= self._options.max_links_per_endpoint:
            return bool(endpoint.idle)
        return bool(self._idle) or self._links < self._options.max_links

    def _grant(self, endpoint: _Endpoint, token: int, now: float, actions: list[Action]) -> Grant:
        """Lend a link of an endpoint that is servable."""
        self._granted += 1
        if endpoint.idle:
            number, link = endpoint.idle.popitem()
            del self._idle[number]
            self._lent[token] = link
            return Grant(token, number, "check" if now - link.idle_since >= self._options.check_after_s else "use")
        if self._links >= self._options.max_links:
            self._drop(next(iter(self._idle.values())), "evicted", actions)
        self._lent[token] = link = self._new_link(endpoint)
        self._peak = max(self._peak, self._links)
        return Grant(token, link.number, "open")

    def _serve(self, now: float, actions: list[Action]) -> None:
        """One link came back, so one user at most can go on: of those that can, who waits longest."""
        if self._waiters:
            able = [each for each in self._endpoints.values() if each.waiters and self._servable(each)]
            if able:
                token = min(next(iter(each.waiters)) for each in able)
                actions.append(Wake(token, self._grant(self._leave(token, now), token, now, actions)))

    def _lent_to(self, token: int) -> _Link:
        link = self._lent.get(token)
        if link is None:
            raise UsageError(f"token {token} has no link: it was never granted one, or gave it back")
        return link

    def _new_link(self, endpoint: _Endpoint) -> _Link:
        endpoint.links += 1
        self._endpoints[endpoint.key] = endpoint
        return _Link(next(self._numbers), endpoint)

    def _drop(self, link: _Link, reason: CloseReason, actions: list[Action]) -> None:
        self._idle.pop(link.number, None)
        link.endpoint.idle.pop(link.number, None)
        link.endpoint.links -= 1
        self._forget(link.endpoint)
        self._closed_by_reason[reason] += 1
        actions.append(Close(link.number, reason))

    def _leave(self, token: int, now: float) -> _Endpoint:
        waiter = self._waiters.pop(token)
        del waiter.endpoint.waiters[token]
        waited_s = now - waiter.since
        self._wait_s += waited_s
        self._longest_wait_s = max(self._longest_wait_s, waited_s)
        return waiter.endpoint

    def _forget(self, endpoint: _Endpoint) -> None:
        if not endpoint.links and not endpoint.waiters:
            del self._endpoints[endpoint.key]
