"""Where a server can be reached: its listeners, and what serves an endpoint without connections."""

from __future__ import annotations

from asyncio import Future
from typing import Any, Protocol

from everbus.aio.listener import Listener
from everbus.aio.statistics import SerialStatistics, UdpStatistics
from everbus.client.endpoint import Endpoint

__all__ = ["Doors", "Port"]


class Port(Protocol):
    """A UDP socket or a serial line: one owner of one descriptor, which opens it again when it is lost."""

    @property
    def endpoint(self) -> Endpoint:
        """Where it is; with the port number that the system chose."""
        ...

    @property
    def listening(self) -> bool:
        """Its descriptor is open, and read."""
        ...

    @property
    def requests(self) -> int:
        """Good requests received."""
        ...

    @property
    def reopened(self) -> int:
        """How often its descriptor was lost and opened again."""
        ...

    @property
    def abandoned(self) -> set[Future[object]]:
        """Cancelled handlers that have not ended yet; their results are discarded."""
        ...

    def fileno(self) -> int:
        """Its descriptor; -1: it has none."""
        ...

    def statistics(self) -> UdpStatistics | SerialStatistics:
        """A snapshot of what it has done."""
        ...

    async def open(self) -> None:
        """Open it and begin to read.

        Raises:
            ConnectError: it cannot be had; nothing is left open.
        """
        ...

    def sweep(self, now: float) -> None:
        """Enforce its deadlines, and make sure that the descriptor is still ours."""
        ...

    def exempt(self, future: Future[Any]) -> None:
        """Give up the request whose handler this is: it is not waited for, and stays unanswered."""
        ...

    async def close(self, timeout_s: float) -> bool:
        """Read no more, answer what was asked, close. Idempotent.

        Args:
            timeout_s: how long requests may take that wait for their handlers; 0 cuts off a close
                that is under way, too.

        Returns:
            Everything was answered.
        """
        ...


class Doors:
    """Every listener and port of one server, in the order in which they were opened."""

    def __init__(self) -> None:
        self.listeners: list[Listener] = []
        self.ports: list[Port] = []
        self._all: list[Listener | Port] = []

    def add_listener(self, listener: Listener) -> None:
        """Take over an open listener."""
        self.listeners.append(listener)
        self._all.append(listener)

    def add_port(self, port: Port) -> None:
        """Take over an open port."""
        self.ports.append(port)
        self._all.append(port)

    @property
    def urls(self) -> tuple[str, ...]:
        """Where they are."""
        return tuple(str(door.endpoint) for door in self._all)

    @property
    def open(self) -> int:
        """How many can be reached now."""
        return sum(door.listening for door in self._all)

    @property
    def reopened(self) -> int:
        """How often one of them was lost and opened again."""
        return sum(one.relistens for one in self.listeners) + sum(port.reopened for port in self.ports)

    @property
    def requests(self) -> int:
        """Good requests that came to ports; those of connections are counted there."""
        return sum(port.requests for port in self.ports)

    @property
    def abandoned(self) -> set[Future[object]]:
        """Cancelled handlers of ports that have not ended yet."""
        return set[Future[object]]().union(*(port.abandoned for port in self.ports))

    def statistics(self) -> dict[str, UdpStatistics | SerialStatistics]:
        """What each port has done, by its URL."""
        return {str(port.endpoint): port.statistics() for port in self.ports}

    def use(self, number: int) -> bool:
        """Whether a descriptor is a port's."""
        return any(port.fileno() == number for port in self.ports)

    def sweep(self, now: float) -> None:
        """Make sure that each is still ours, and enforce what depends on time."""
        for listener in self.listeners:
            listener.check()
        for port in self.ports:
            port.sweep(now)

    def exempt(self, future: Future[Any]) -> None:
        """Give up the request to a port whose handler this is."""
        for port in self.ports:
            port.exempt(future)

    def stop_listening(self) -> None:
        """Let no newcomer connect."""
        for listener in self.listeners:
            listener.close()

    async def cut_off(self) -> int:
        """Close the ports at once; tell how many had an unanswered request."""
        return [await port.close(0.0) for port in self.ports].count(False)
