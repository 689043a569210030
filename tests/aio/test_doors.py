from __future__ import annotations

import asyncio
from typing import Any

from everbus.aio.doors import Doors, Port
from everbus.aio.listener import Listener
from everbus.aio.statistics import UdpStatistics
from everbus.client.endpoint import Endpoint, parse_endpoint
from everbus.limits import Limits
from everbus.testing import RecordingObserver


class Line:
    """A port that is told what to say."""

    def __init__(self, url: str, number: int, answered: bool = True) -> None:
        self.endpoint: Endpoint = parse_endpoint(url)
        self.number = number
        self.answered = answered
        self.listening = True
        self.requests = number * 10
        self.reopened = number
        self.abandoned: set[asyncio.Future[object]] = set()
        self.seen: list[object] = []

    def fileno(self) -> int:
        return self.number

    def statistics(self) -> UdpStatistics:
        return UdpStatistics(self.listening, self.reopened, self.requests, in_flight=0, peers=1, forgotten=0)

    async def open(self) -> None:
        self.seen.append("open")

    def sweep(self, now: float) -> None:
        self.seen.append(now)

    def exempt(self, future: asyncio.Future[Any]) -> None:
        self.seen.append(future)

    async def close(self, timeout_s: float) -> bool:
        self.listening = False
        return self.answered


def listener() -> Listener:
    def deliver(*_: object) -> None:
        raise AssertionError("nobody connects")

    endpoint = Endpoint("tcp", "127.0.0.1")
    found = Listener(endpoint, Limits(), RecordingObserver(), deliver, lambda: False, in_use=lambda _: False)
    found.open()
    return found


async def test_a_server_without_doors() -> None:
    doors = Doors()
    assert (doors.urls, doors.open, doors.reopened, doors.requests, doors.abandoned) == ((), 0, 0, 0, set())
    assert await doors.cut_off() == 0


async def test_everything_that_is_open_in_the_order_in_which_it_was_opened() -> None:
    doors = Doors()
    one, two = Line("udp://192.0.2.7", 3), Line("rtu:///dev/ttyUSB0", 4, answered=False)
    ports: list[Port] = [one, two]
    stream = listener()
    try:
        doors.add_port(one)
        doors.add_listener(stream)
        doors.add_port(two)
        assert doors.urls == (
            "udp://192.0.2.7:502",
            str(stream.endpoint),
            "rtu:///dev/ttyUSB0?baudrate=19200&parity=E",
        )
        assert (doors.listeners, doors.ports) == ([stream], ports)
        assert (doors.open, doors.reopened, doors.requests) == (3, 7, 70)
        assert [doors.use(number) for number in (2, 3, 4)] == [False, True, True]
        found = doors.statistics()
        assert [found[url].requests for url in (doors.urls[0], doors.urls[2])] == [30, 40]
        future = asyncio.get_running_loop().create_future()
        two.abandoned.add(future)
        assert doors.abandoned == {future}
        doors.exempt(future)
        doors.sweep(5.0)
        assert one.seen == two.seen == [future, 5.0]
        doors.stop_listening()
        assert doors.open == 2
        assert await doors.cut_off() == 1
        assert doors.open == 0
    finally:
        stream.close()
