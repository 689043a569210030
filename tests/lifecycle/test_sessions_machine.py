"""Sessions over real sockets against a model: whatever clients do, answers and descriptors are the model's.

Clients connect, send whole, split and coalesced, leave half frames, wait for slow handlers or not, close, reset,
half-close and send what is not Modbus, and the server restarts under them. After each step every answer was right,
and the server holds as many connections, and the process as many descriptors, as the model says (A, C, V17).
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from everbus.aio.thread import ThreadedServer, serve_in_thread
from everbus.limits import Limits
from everbus.protocol.pdu.base import Response
from everbus.protocol.pdu.registers import ReadHoldingRegistersRequest
from everbus.protocol.pdu.table import AnyRequest
from everbus.resources import descriptor_count
from everbus.service.bank import Bank
from everbus.service.context import RequestContext
from everbus.testing import RecordingObserver
from tests.fuzz.budget import budget

MOST = 3
MOST_PER_PEER = 2
REGISTERS = 8
BANK, SLOW = 1, 2
"""Units: registers that all share, and a handler that takes its time."""

SLOW_S = 0.005
KERNEL_S = 5.0
"""A connection's end is known on both sides within this time."""

HEADER = struct.Struct(">HHHB")
LINGER_NOT = struct.pack("ii", 1, 0)
READ, WRITE, WRITE_MANY = 3, 6, 16

Request = tuple[int, int, tuple[int, ...]]
"""Function code or 0 for the slow unit, address, then quantity or values."""


@dataclass(eq=False)
class Client:
    """A socket, and what is known of it."""

    sock: socket.socket
    source: str
    opened_at: float
    used: bool = False
    transaction: int = 0
    begun: tuple[bytes, Request] | None = None
    """A request whose first half is sent: the second half, and what it asks."""
    owed: dict[int, bytes] = field(default_factory=dict)
    """Answers to come, by transaction."""


registers = st.integers(0, REGISTERS - 1)
words = st.integers(0, 0xFFFF)
asks = st.one_of(
    st.tuples(st.just(READ), registers, st.tuples(st.integers(1, REGISTERS + 1))),
    st.tuples(st.just(WRITE), registers | st.just(REGISTERS), st.tuples(words)),
    st.tuples(st.just(WRITE_MANY), registers, st.lists(words, min_size=1, max_size=4).map(tuple)),
    st.tuples(st.just(0), registers, st.tuples(st.integers(1, 3))),
)
picks = st.integers(0, MOST - 1)


class Sessions(RuleBasedStateMachine):
    """One server at a time, its clients, and the model of both."""

    full: ClassVar[Literal["evict", "refuse"]]
    clients: list[Client]

    @initialize()
    def build(self) -> None:
        self.limits = Limits(
            max_connections=MOST,
            max_connections_per_peer=MOST_PER_PEER,
            full=self.full,
            evict_after_s=0,
            max_in_flight=2,
            frame_timeout_s=60,
        )
        self.bank = Bank(holding_registers=REGISTERS)
        self.values = [0] * REGISTERS
        self.clients = []
        self.handlers = 0
        self.server: ThreadedServer | None = None
        self._start()
        self.held = descriptor_count()
        self.connect([2, 3], asking=False)

    def _start(self) -> None:
        self.observer = RecordingObserver()
        units: dict[int, Any] = {BANK: self.bank, SLOW: self._answer_slowly}
        self.server = serve_in_thread(units, "tcp://127.0.0.1:0", limits=self.limits, observer=self.observer)
        self.port = int(self.server.endpoints[0].rpartition(":")[2])
        self.opened = self.refused = self.evicted = self.rejected = 0

    async def _answer_slowly(self, request: AnyRequest, context: RequestContext) -> Response:
        self.handlers += 1
        try:
            await asyncio.sleep(SLOW_S)
        finally:
            self.handlers -= 1
        assert isinstance(request, ReadHoldingRegistersRequest)
        return request.respond([slow_value(request.address + at) for at in range(request.quantity)])

    @property
    def running(self) -> ThreadedServer:
        assert self.server is not None
        return self.server

    # Clients come

    @rule(hosts=st.lists(st.sampled_from([2, 2, 3]), min_size=1, max_size=MOST), asking=st.booleans())
    def connect(self, hosts: list[int], asking: bool) -> None:
        """Some ask at once: they may be evicted for the next."""
        for host in hosts:
            client = self._connect(host)
            if asking and client in self.clients:
                self._ask(client, [(READ, 0, (1,))])
                self._collect(client)

    def _connect(self, host: int) -> Client:
        source = f"127.0.0.{host}"
        of_peer = [client for client in self.clients if client.source == source]
        client = Client(connected(self.port, source), source, time.monotonic())
        lane = of_peer if len(of_peer) >= MOST_PER_PEER else self.clients if len(self.clients) >= MOST else None
        self.opened += 1
        self.clients.append(client)
        if lane is not None:
            wait_until(lambda: any(heard(each.sock) == b"" for each in self.clients), lambda: "somebody has to go")
            self._one_went(client, lane)
        return client

    def _one_went(self, newcomer: Client, lane: list[Client]) -> None:
        """Of a lane that was full one was evicted, or the newcomer was refused."""
        (victim,) = [client for client in self.clients if heard(client.sock) == b""]
        if victim is newcomer:
            self.opened -= 1
            self.refused += 1
            assert self.limits.full == "refuse" or not any(client.used for client in lane), "nobody was evicted"
        else:
            self.evicted += 1
            assert self.limits.full == "evict"
            assert victim in evictable(lane), "somebody else should have gone"
        self._forget(victim)

    # Clients ask

    @precondition(lambda self: self.clients)
    @rule(pick=picks, ask=asks)
    def send_whole(self, pick: int, ask: Request) -> None:
        client = self._client(pick)
        self._ask(client, [ask])
        self._collect(client)

    @precondition(lambda self: self.clients)
    @rule(pick=picks, ask=asks, places=st.lists(st.integers(1, 16), min_size=1, max_size=3))
    def send_split(self, pick: int, ask: Request, places: list[int]) -> None:
        client = self._client(pick)
        data = self._apply(client, ask)
        for start, end in pairwise([0, *sorted(places), len(data)]):
            client.sock.sendall(data[start:end])
            time.sleep(0.001)
        self._collect(client)

    @precondition(lambda self: self.clients)
    @rule(pick=picks, several=st.lists(asks, min_size=2, max_size=6))
    def send_coalesced(self, pick: int, several: list[Request]) -> None:
        client = self._client(pick)
        self._ask(client, several)
        self._collect(client)

    @precondition(lambda self: self.clients)
    @rule(pick=picks, ask=asks, share=st.integers(1, 11))
    def send_half(self, pick: int, ask: Request, share: int) -> None:
        """The other half comes with the next request, or never."""
        client = self._client(pick)
        client.transaction += 1
        data = wire(client.transaction, ask)
        client.transaction -= 1
        client.sock.sendall(data[:share])
        client.begun = data[share:], ask

    # Clients go

    @precondition(lambda self: self.clients)
    @rule(pick=picks, several=st.lists(asks, max_size=3))
    def cancel(self, pick: int, several: list[Request]) -> None:
        """Close without waiting for the answers: what the bank was asked is done all the same."""
        self._forget(self._leaver(pick, sorted(several, key=lambda ask: ask[0] == 0)))

    @precondition(lambda self: self.clients)
    @rule(pick=picks, several=st.lists(asks.filter(lambda ask: ask[0] in (0, READ)), max_size=3))
    def drop(self, pick: int, several: list[Request]) -> None:
        """Close by RST: what was asked may be lost."""
        client = self._leaver(pick, several)
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
        self._forget(client)

    @precondition(lambda self: self.clients)
    @rule(pick=picks, several=st.lists(asks, max_size=4))
    def half_close(self, pick: int, several: list[Request]) -> None:
        """No more requests: what was asked is answered, then the server closes."""
        client = self._leaver(pick, several)
        client.sock.shutdown(socket.SHUT_WR)
        self._until_closed(client)

    @precondition(lambda self: self.clients)
    @rule(pick=picks, several=st.lists(asks, max_size=2))
    def leave_the_protocol(self, pick: int, several: list[Request]) -> None:
        client = self._client(pick)
        self._ask(client, several, behind=b"GET / HTTP/1.1\r\n\r\n")
        self.rejected += 1
        self._until_closed(client)

    def _until_closed(self, client: Client) -> None:
        self._collect(client)
        assert client.sock.recv(1) == b""
        self._forget(client)

    @precondition(lambda self: self.opened)
    @rule()
    def restart(self) -> None:
        self.running.stop()
        for client in self.clients:
            assert heard(client.sock) == b"", "the server has stopped, and the connection is open"
            client.sock.close()
        self.clients = []
        statistics = self.running.statistics()
        assert statistics.connections == statistics.listeners == statistics.unsent_bytes == 0
        assert statistics.opened == statistics.closed == self.opened
        self._start()

    # What it is made of

    def _client(self, pick: int) -> Client:
        """One of them; a request that it began to send is finished first."""
        client = self.clients[pick % len(self.clients)]
        if client.begun is not None:
            rest, ask = client.begun
            client.begun = None
            self._apply(client, ask)
            client.sock.sendall(rest)
            self._collect(client)
        return client

    def _ask(self, client: Client, several: list[Request], behind: bytes = b"") -> None:
        """Send requests in one piece; the model does them now, as the server does them in order."""
        data = b"".join([self._apply(client, ask) for ask in several])
        client.sock.sendall(data + behind)

    def _leaver(self, pick: int, several: list[Request]) -> Client:
        """One of them, which asks this before it goes, unless it leaves half a request behind."""
        client = self.clients[pick % len(self.clients)]
        if client.begun is None:
            self._ask(client, several)
        return client

    def _apply(self, client: Client, ask: Request) -> bytes:
        """Note what is to be answered; give the bytes that ask for it."""
        client.transaction += 1
        client.owed[client.transaction] = self._expected(ask)
        return wire(client.transaction, ask)

    def _expected(self, ask: Request) -> bytes:
        code, address, (first, *_) = ask
        count = first if code in (0, READ) else len(ask[2])
        if code == 0:
            return b"\x03" + packed([slow_value(address + at) for at in range(count)])
        if address + count > REGISTERS:
            return bytes((code | 0x80, 2))
        if code == READ:
            return b"\x03" + packed(self.values[address : address + count])
        self.values[address : address + count] = ask[2]
        return wire(0, ask)[HEADER.size :][:5]

    def _collect(self, client: Client) -> None:
        """Every answer that is owed, in any order."""
        while client.owed:
            transaction, protocol, length, _ = HEADER.unpack(received(client.sock, HEADER.size))
            pdu = received(client.sock, length - 1)
            assert (protocol, pdu) == (0, client.owed.pop(transaction))
        client.used = client.used or client.transaction > 0

    def _forget(self, client: Client) -> None:
        client.sock.close()
        self.clients.remove(client)

    @invariant()
    def everything_equals_the_model(self) -> None:
        expected = {
            "connections": len(self.clients),
            "descriptors": self.held + 2 * len(self.clients),
            "handlers": 0,
            "opened": self.opened,
            "refused": self.refused,
            "evicted": self.evicted,
            "rejected": self.rejected,
        }
        wait_until(lambda: self._figures() == expected, lambda: f"{self._figures()} are to be {expected}")
        statistics = self.running.statistics()
        assert statistics.unsent_bytes == statistics.observer_failures == 0
        assert statistics.handler_failures == statistics.accept_errors == {}
        assert self.bank.read_holding_registers(0, REGISTERS) == self.values
        for client in self.clients:
            assert heard(client.sock) is None, f"{client} has something to read"

    def _figures(self) -> dict[str, int]:
        statistics = self.running.statistics()
        closed = statistics.closed_by_reason
        return {
            "connections": statistics.connections,
            "descriptors": descriptor_count(),
            "handlers": self.handlers,
            "opened": statistics.opened,
            "refused": sum(statistics.refused_by_reason.values()),
            "evicted": sum(count for reason, count in closed.items() if reason.startswith("evicted")),
            "rejected": sum(statistics.rejected_frames.values()),
        }

    def teardown(self) -> None:
        for client in self.clients:
            client.sock.close()
        if self.server is not None:
            self.server.stop()


def evictable(lane: list[Client]) -> list[Client]:
    """Who may have to go: who never asked in a second, else who asked, else the newcomers."""
    never = [client for client in lane if not client.used]
    settled = [client for client in never if time.monotonic() - client.opened_at > 1.0]
    return settled + ([client for client in lane if client.used] or never)


def slow_value(address: int) -> int:
    return 7 * address + 1


def packed(values: list[int]) -> bytes:
    return struct.pack(f">B{len(values)}H", 2 * len(values), *values)


def wire(transaction: int, ask: Request) -> bytes:
    code, address, values = ask
    pdu = struct.pack(">BH", code or READ, address)
    pdu += struct.pack(">H", len(values)) + packed(list(values)) if code == WRITE_MANY else struct.pack(">H", *values)
    return HEADER.pack(transaction, 0, len(pdu) + 1, BANK if code else SLOW) + pdu


def connected(port: int, source: str) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), KERNEL_S, (source, 0))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def received(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = sock.recv(count - len(data))
        assert chunk, f"closed after {data.hex(' ') or 'nothing'}"
        data += chunk
    return data


def heard(sock: socket.socket) -> bytes | None:
    """What there is to read: nothing at all, a first byte, or the end, by FIN or RST."""
    sock.setblocking(False)
    try:
        return sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return None
    except ConnectionError:
        return b""
    finally:
        sock.settimeout(KERNEL_S)


def wait_until(condition: Callable[[], bool], what: Callable[[], str]) -> None:
    deadline = time.monotonic() + KERNEL_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {KERNEL_S} s: {what()}"
        time.sleep(0.0005)


class Refusing(Sessions):
    full = "refuse"


class Evicting(Sessions):
    full = "evict"


@pytest.mark.slow
@pytest.mark.parametrize("machine", [Refusing, Evicting])
def test_answers_and_descriptors_are_the_models_whatever_clients_do(machine: type[Sessions]) -> None:
    # To shrink takes longer than a test may: each try waits for what does not come.
    phases = [Phase.explicit, Phase.reuse, Phase.generate]
    run_state_machine_as_test(machine, settings=settings(budget(40, 30), phases=phases))
