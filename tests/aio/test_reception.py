from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import closing

import pytest

from everbus.aio.connection import Connection, Shared
from everbus.aio.line import LineConnection
from everbus.aio.listener import Listener
from everbus.aio.reception import Reception
from everbus.aio.registry import Registry
from everbus.client.endpoint import Endpoint, TlsFiles
from everbus.errors import ConfigurationError
from everbus.limits import Limits
from everbus.observe import EventKind
from everbus.protocol.framing.mbap import MbapFramer
from everbus.protocol.pdu.table import PUBLIC
from everbus.service.authorize import Admission, everybody
from everbus.service.bank import Bank
from everbus.service.multidrop import Multidrop
from everbus.service.pipeline import Pipeline
from everbus.service.units import Units
from everbus.testing import RecordingObserver
from everbus.tls import TlsOptions
from tests.aio.wire import until

PEER = ("192.0.2.7", 40112)


class Desk:
    """A reception, and sockets to hand over."""

    def __init__(self, limits: Limits | None = None, admission: Callable[[str], Admission] = everybody) -> None:
        self.observer = RecordingObserver()
        units = Units(Bank())
        pipeline = Pipeline(units)
        limits = limits or Limits()
        self.registry = Registry(limits, admission)
        shared = Shared(pipeline, self.registry, limits, self.observer, MbapFramer)
        self.reception = Reception(shared, Multidrop(pipeline, units), PUBLIC, TlsOptions())

    def deliver(self, scheme: str = "tcp") -> socket.socket:
        """Hand one end of a connection over, return the other."""
        here, there = socket.socketpair()
        here.setblocking(False)
        there.settimeout(2.0)
        endpoint = Endpoint(scheme, "127.0.0.1", 502)
        reception = self.reception
        door = Listener(
            endpoint, Limits(), self.observer, reception.deliver, reception.make_room, in_use=lambda _: False
        )
        reception.deliver(here, PEER, door)
        return there

    async def end(self) -> None:
        for member in list(self.registry):
            member.abort("forced")
        await until(lambda: not len(self.registry))


@pytest.mark.parametrize(
    ("scheme", "kind"), [("tcp", Connection), ("rtu+tcp", LineConnection), ("ascii+tcp", LineConnection)]
)
async def test_a_socket_becomes_the_connection_that_its_endpoint_is_for(scheme: str, kind: type) -> None:
    desk = Desk()
    with closing(desk.deliver(scheme)):
        (connection,) = desk.registry
        assert type(connection) is kind
        assert isinstance(connection, Connection)
        info = connection.info
        assert (info.connection_id, info.peer, info.host) == (1, "192.0.2.7:40112", "192.0.2.7")
        assert info.endpoint == f"{scheme}://127.0.0.1:502"
        assert (desk.reception.opened, desk.reception.next_id()) == (1, 2)
        await desk.end()


@pytest.mark.parametrize(
    ("limits", "admission", "reason", "why"),
    [
        (Limits(), Admission.REFUSE, "policy", "the policy refuses its address"),
        (Limits(max_connects_per_peer_per_s=1e-9), Admission.ALLOW, "rate", "a limit is reached"),
    ],
)
async def test_who_is_not_admitted_is_closed_at_once(
    limits: Limits, admission: Admission, reason: str, why: str
) -> None:
    desk = Desk(limits, lambda _: admission)
    with closing(desk.deliver()):
        pass
    with closing(desk.deliver()) as there:
        await asyncio.sleep(0)
        assert there.recv(1) == b""
    event = desk.observer.of(EventKind.CONNECTION_REFUSED)[-1]
    assert (event.reason, event.detail) == (reason, f"closed at once, {why}")
    await desk.end()


async def test_room_is_made_by_ending_a_connection() -> None:
    desk = Desk()
    assert not desk.reception.make_room()
    with closing(desk.deliver()):
        (member,) = desk.registry
        member.last_active -= 60.0
        assert desk.reception.make_room()
        await desk.end()


async def test_certificates_are_looked_at_before_anybody_comes() -> None:
    desk = Desk()
    desk.reception.prepare(Endpoint("tcp", "127.0.0.1"))
    with pytest.raises(ConfigurationError, match=r"none\.pem cannot be read"):
        desk.reception.prepare(Endpoint("tls", "127.0.0.1", tls=TlsFiles("none.pem", ca="ca.pem")))
