"""A pool of blocking clients, for any number of threads: the core decides, this waits and connects."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any, Self, TypeVar

from everbus.client.endpoint import Endpoint, as_endpoint
from everbus.client.pool_core import Action, Grant, PoolCore, PoolOptions, PoolStatistics, Refused, Wait, Wake
from everbus.maps.planner import HoleMap
from everbus.protocol.pdu.base import Request, Response
from everbus.protocol.values import check_unit
from everbus.sync.client import Client
from everbus.sync.unit import Requests

__all__ = ["Pool", "PooledUnit"]

R = TypeVar("R", bound=Response)


class Pool:
    """Connections to many devices, shared by any number of threads; most devices get one connection only.

    Args:
        options: how many connections, for how long, and who waits.
        wait_s: how long a caller waits for a connection that others use.
        client: keywords of ``Client`` for every connection: ``timeout_s``, ``retries`` ...

    Raises:
        ConfigurationError: an option that cannot work.

    ``pool.unit(url, 1)`` has every method of a unit, and borrows a connection for each call.
    ``with pool.client(url) as client`` borrows one for longer. A connection comes back only if
    everything asked through it was answered; else it is closed. A serial port is not: its client knows
    which answers may still come, and leaves the line alone until it is quiet. There is no thread behind
    it: what is overdue is closed when somebody uses the pool. A forked child begins with an empty one.
    """

    def __init__(self, options: PoolOptions | None = None, *, wait_s: float = 3.0, **client: Any) -> None:
        self._options = options
        self._wait_s = wait_s
        self._keywords = client
        self._holes: dict[Endpoint, HoleMap] = {}
        Client("tcp://127.0.0.1", **client)  # what cannot work is refused here and not at the first call
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._core = PoolCore(self._options)
        self._clients: dict[int, Client] = {}
        self._outcomes: dict[int, Grant | Refused] = {}
        self._news = threading.Condition()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def unit(self, endpoint: str | Endpoint, number: int = 1) -> PooledUnit:
        """A unit of a device, 0..255; each call borrows a connection.

        Raises:
            ConfigurationError: the endpoint is not one.
            UsageError: the number is outside 0..255.
        """
        return PooledUnit(self, as_endpoint(endpoint), check_unit(number))

    @contextmanager
    def client(self, endpoint: str | Endpoint) -> Iterator[Client]:
        """Borrow a connection, with its client, until the block ends.

        Raises:
            PoolExhaustedError: none was free within ``wait_s``, or too many wait.
            ConnectError: the device cannot be reached.
        """
        if self._pid != os.getpid():
            self._begin()  # the parent's connections stay the parent's
        where = as_endpoint(endpoint)
        grant = self._acquire(where)
        client: Client | None = None
        try:
            client = self._prepared(grant, where)
            yield client
        finally:
            clean = client is not None and client.clean
            with self._news:
                closing = self._carry_out(self._core.release(grant.token, monotonic(), clean=clean))
            _close(closing)

    def _acquire(self, endpoint: Endpoint) -> Grant:
        deadline = monotonic() + self._wait_s
        with self._news:
            outcome, actions = self._core.acquire(endpoint, monotonic(), deadline)
            closing = self._carry_out(actions)
        _close(closing)
        if isinstance(outcome, Wait):
            outcome = self._turn(outcome.token, deadline)
        if isinstance(outcome, Refused):
            raise outcome.error(endpoint, self._wait_s)
        return outcome

    def _turn(self, token: int, deadline: float) -> Grant | Refused:
        """Wait in the queue."""
        closing: list[Client] = []
        outcome: Grant | Refused | None = None
        with self._news:
            try:
                while (outcome := self._outcomes.pop(token, None)) is None:
                    self._news.wait(max(0.0, deadline - monotonic()))
                    closing += self._carry_out(self._core.expire(monotonic()))
            finally:
                if outcome is None and not isinstance(self._outcomes.pop(token, None), Refused):  # Ctrl-C
                    closing += self._carry_out(self._core.cancel(token, monotonic()))
        _close(closing)
        return outcome

    def _prepared(self, grant: Grant, endpoint: Endpoint) -> Client:
        """The client of a grant, connected."""
        if grant.step != "open" and endpoint.serial is not None:
            self._clients[grant.link].connect()
        elif grant.step == "check" and not self._clients[grant.link].check():
            with self._news:
                outcome, actions = self._core.replace(grant.token, monotonic())
                closing = self._carry_out(actions)
            _close(closing)
            if isinstance(outcome, Refused):
                raise outcome.error(endpoint, self._wait_s)
            grant = outcome
        if grant.step != "open":
            return self._clients[grant.link]
        client = self._clients[grant.link] = Client(endpoint, **self._keywords)
        client.connect()
        with self._news:
            self._core.opened(grant.token, monotonic())
        return client

    def _carry_out(self, actions: list[Action]) -> list[Client]:
        """Wake who is waited for; return the clients to close, once the lock is free again."""
        closing = []
        for action in actions:
            if isinstance(action, Wake):
                self._outcomes[action.token] = action.outcome
                self._news.notify_all()
            elif (client := self._clients.pop(action.link, None)) is not None:
                closing.append(client)
        return closing

    def close(self) -> None:
        """Close idle connections now and the others when they come back; refuse who waits. Idempotent."""
        if self._pid != os.getpid():
            self._begin()
        with self._news:
            closing = self._carry_out(self._core.close(monotonic()))
        _close(closing)

    def holes_of(self, endpoint: Endpoint) -> HoleMap:
        """What reads of a device's points do not pass over."""
        return self._holes.setdefault(endpoint, HoleMap())

    def statistics(self) -> PoolStatistics:
        """A snapshot of what it has and has done."""
        with self._news:
            return self._core.statistics()


class PooledUnit(Requests):
    """One unit of a device; each call borrows a connection of the pool."""

    __slots__ = ("_endpoint", "_pool")

    def __init__(self, pool: Pool, endpoint: Endpoint, number: int) -> None:
        self._pool = pool
        self._endpoint = endpoint
        self.number = number

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.number} of {self._endpoint}>"

    @property
    def holes(self) -> HoleMap:
        return self._pool.holes_of(self._endpoint)

    def _ask(self, request: Request[R], unit: int) -> R:
        with self._pool.client(self._endpoint) as client:
            return client.call(request, unit)


def _close(clients: list[Client]) -> None:
    for client in clients:
        client.close()
