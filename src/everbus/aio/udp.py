"""Modbus over UDP: one socket, one frame in each datagram, and nothing that a forged address could grow.

A datagram that is not exactly one good request is dropped and counted; it touches nobody else. An
answer leaves from the address that was asked. What comes from a server's port, or to many hosts at
once, is not answered either: two servers would answer each other for ever, or many would answer one.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import sys
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, NamedTuple, TypeAlias

from everbus.aio.handlers import Handlers
from everbus.aio.listener import descriptor_identity, peer_name, why_not_bound
from everbus.aio.statistics import UdpStatistics
from everbus.client.endpoint import MODBUS_PORT, Endpoint
from everbus.errors import ConnectError
from everbus.limits import Limits
from everbus.observe import Event, EventKind, Observer
from everbus.protocol.codes import EXCEPTION_BIT, ExceptionCode
from everbus.protocol.framing.base import Frame
from everbus.protocol.framing.mbap import MAX_ADU_BYTES, MbapFramer
from everbus.service.authorize import Admission
from everbus.service.context import ConnectionInfo
from everbus.service.pipeline import Pipeline

__all__ = ["UdpPort"]

_ONE_MORE: Final = MAX_ADU_BYTES + 1
"""Read this much: what is longer than a frame is seen to be."""

_IP_PKTINFO: Final = 8
_V4: Final = struct.Struct("=4s4s4s")
"""in_pktinfo: interface, the address of ours to answer from, the address that was asked."""

_ANY_INTERFACE: Final = bytes(4)
_V6_BYTES: Final = 20
_MULTICAST_V6: Final = 0xFF

Address: TypeAlias = tuple[Any, ...]
Ancillary: TypeAlias = list[tuple[int, int, bytes]]


class _Peer:
    """Somebody who asked."""

    __slots__ = ("in_flight", "info")

    def __init__(self, info: ConnectionInfo) -> None:
        self.info = info
        self.in_flight = 0


class _Asked(NamedTuple):
    """A request that waits for its answer, and the way back."""

    frame: Frame
    peer: _Peer
    address: Address
    ancillary: Ancillary


class UdpPort:
    """Owns one UDP socket, and binds it again when it is lost.

    Args:
        endpoint: a single address, as ``resolve`` gives it.
        pipeline: answers requests.
        limits: how much may wait at once, and how many peers are remembered.
        observer: told of what is dropped, and why.
        admission: what the policy makes of a peer's address.
        next_id: numbers the peers, among the connections of the server.
        in_use: whether a descriptor is a connection's: a lost one of ours may have become that.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        pipeline: Pipeline,
        limits: Limits,
        observer: Observer,
        *,
        admission: Callable[[str], Admission],
        next_id: Callable[[], int],
        in_use: Callable[[int], bool],
    ) -> None:
        self.endpoint: Endpoint = endpoint
        self._pipeline = pipeline
        self._limits = limits
        self._observer = observer
        self._admission = admission
        self._next_id = next_id
        self._in_use = in_use
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None
        self._number = -1
        self._servers: frozenset[int] = frozenset()
        self._identity: tuple[int, int] = (0, 0)
        self._framer = MbapFramer()
        self._peers: OrderedDict[Address, _Peer] = OrderedDict()
        self._forgotten = 0
        self.abandoned: set[asyncio.Future[object]] = set()
        """Cancelled handlers that have not ended yet; their results are discarded."""
        self._handlers = Handlers[_Asked](pipeline, limits.handler_timeout_s, self.abandoned, self._finished)
        self._closed = False
        self._cut_off = False
        self._idle = asyncio.Event()
        self.requests: int = 0
        self.reopened: int = 0

    def __repr__(self) -> str:
        return f"<UdpPort {self.endpoint} {'open' if self._socket else 'closed'}>"

    @property
    def listening(self) -> bool:
        """Its socket is open, and read."""
        return self._socket is not None and not self._closed

    def fileno(self) -> int:
        """The descriptor of its socket; -1: it has none."""
        return self._socket.fileno() if self._socket is not None else -1

    def statistics(self) -> UdpStatistics:
        """A snapshot of what it has done."""
        return UdpStatistics(
            listening=self.listening,
            reopened=self.reopened,
            requests=self.requests,
            in_flight=len(self._handlers),
            peers=len(self._peers),
            forgotten=self._forgotten,
        )

    # The socket

    async def open(self) -> None:
        """Bind and begin to read.

        Raises:
            ConnectError: the address is taken, privileged, or not ours; nothing is left open.
        """
        try:
            self._open("start")
        except OSError as error:
            raise ConnectError(f"cannot listen on {self.endpoint}: {why_not_bound(error)}") from error

    def _open(self, reason: str) -> None:
        family = socket.AF_INET6 if ":" in self.endpoint.host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((self.endpoint.host, self.endpoint.port))
            _learn_the_address_asked(sock)
            self._identity = descriptor_identity(sock.fileno())
            self._loop.add_reader(sock.fileno(), self._on_ready)
        except BaseException:
            sock.close()
            raise
        self._socket = sock
        self._number = sock.fileno()
        self.endpoint = replace(self.endpoint, port=sock.getsockname()[1])
        self._servers = frozenset({0, MODBUS_PORT, self.endpoint.port})
        self._observer.notify(Event(EventKind.LISTENER_OPENED, str(self.endpoint), reason))

    def sweep(self, now: float) -> None:
        """Enforce the handlers' deadlines, and make sure that the descriptor is still ours.

        Somebody else in the process may have closed it, and its number may be in use again. Then
        nothing is closed here, and this, the one owner, binds again, at every sweep until it succeeds.
        """
        self._handlers.expire(now)
        if self._closed:
            return
        if self._socket is not None:
            problem = self._problem(self._socket)
            if not problem:
                return
            self._let_go(self._socket)
            self._observer.notify(Event(EventKind.LISTENER_LOST, str(self.endpoint), problem))
        try:
            self._open("again")
        except OSError as error:
            self._failed("relisten ", error)
        else:
            self.reopened += 1

    def _problem(self, sock: socket.socket) -> str:
        try:
            return "" if descriptor_identity(sock.fileno()) == self._identity else "replaced"
        except OSError:
            return "closed"

    def _let_go(self, sock: socket.socket) -> None:
        """Forget a socket that we lost."""
        self._socket = None
        sock.detach()
        if not self._in_use(self._number):
            with suppress(RuntimeError):  # a transport of somebody else's in this loop uses the number by now
                self._loop.remove_reader(self._number)

    def _failed(self, what: str, error: OSError) -> None:
        name = errno.errorcode.get(error.errno or 0, "unknown")
        self._observer.notify(Event(EventKind.ACCEPT_FAILED, str(self.endpoint), what + name, str(error), error=error))

    async def close(self, timeout_s: float) -> bool:
        """Read no more, answer what was asked, close. Idempotent.

        Args:
            timeout_s: how long requests may take that wait for their handlers; 0 cuts off a close
                that is under way, too.

        Returns:
            Everything was answered.
        """
        self._stop_reading()
        if self._handlers and timeout_s > 0:
            self._idle.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._idle.wait()
        self._cut_off = self._cut_off or bool(self._handlers)
        self._handlers.abandon_all()
        self._idle.set()
        sock, self._socket = self._socket, None
        if sock is not None:
            sock.close()
        return not self._cut_off

    def _stop_reading(self) -> None:
        """Take what has arrived by now, and nothing more."""
        if self._closed:
            return
        self._closed = True
        if self._socket is None:
            return
        if self._problem(self._socket):
            self._let_go(self._socket)
            return
        self._on_ready()
        self._loop.remove_reader(self._number)

    # Requests and answers

    def _on_ready(self) -> None:
        sock = self._socket
        if sock is None:
            return
        for _ in range(self._limits.datagrams_per_wakeup):
            try:
                data, ancillary, flags, address = sock.recvmsg(_ONE_MORE, socket.CMSG_SPACE(_V6_BYTES))
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:  # that of an answer that did not arrive, too: ECONNREFUSED
                self._failed("receive ", error)
                return
            self._receive(data, ancillary, flags, address)

    def _receive(self, data: bytes, ancillary: Ancillary, flags: int, address: Address) -> None:
        """Answer one datagram, if it is a request and nothing else."""
        frame = self._frame(data, flags)
        if isinstance(frame, str):
            self._drop(frame, address, data)
        elif address[1] in self._servers:
            self._drop("server_port", address, data)
        elif not _is_unicast(ancillary):
            self._drop("not_unicast", address, data)
        elif address not in self._peers and self._admission(address[0]) is Admission.REFUSE:
            self._drop("policy", address, data)
        else:
            self._answer(frame, address, _from_there(ancillary))

    def _frame(self, data: bytes, flags: int) -> Frame | str:
        """The request that a datagram is; or why it is none."""
        if not data:
            return "empty"
        if flags & socket.MSG_TRUNC or len(data) > MAX_ADU_BYTES:
            return "too_long"
        framer = self._framer
        frames = framer.feed(data)
        if framer.pending or framer.fault is not None or len(frames) > 1:
            self._framer = MbapFramer()
            return "several" if frames else "cut_off" if framer.fault is None else framer.fault.reason
        return "answer" if frames[0].pdu[0] & EXCEPTION_BIT else frames[0]

    def _drop(self, reason: str, address: Address, data: bytes) -> None:
        detail = f"datagram of {len(data)} bytes dropped (first bytes {data[:8].hex(' ')})"
        self._observer.notify(Event(EventKind.FRAME_REJECTED, peer_name(address)[1], reason, detail))

    def _answer(self, frame: Frame, address: Address, ancillary: Ancillary) -> None:
        peer = self._peer(address)
        self.requests += 1
        asked = _Asked(frame, peer, address, ancillary)
        reason = self._full(peer)
        if reason:
            event = Event(EventKind.REQUEST_REFUSED, peer.info.peer, reason, "answered with 06, busy")
            self._observer.notify(event)
            self._send(asked, bytes((frame.pdu[0] | EXCEPTION_BIT, ExceptionCode.SERVER_DEVICE_BUSY)))
            return
        answer = self._pipeline.answer(frame, peer.info)
        if isinstance(answer, bytes):
            self._send(asked, answer)
        elif answer is not None:
            peer.in_flight += 1
            self._handlers.start(asked, answer)

    def _peer(self, address: Address) -> _Peer:
        """Who asks; the one that was silent longest is forgotten for a new one."""
        peer = self._peers.get(address)
        if peer is not None:
            self._peers.move_to_end(address)
            return peer
        if len(self._peers) >= self._limits.max_udp_peers:
            self._peers.popitem(last=False)
            self._forgotten += 1
        host, name = peer_name(address)
        peer = self._peers[address] = _Peer(ConnectionInfo(self._next_id(), name, host, str(self.endpoint)))
        return peer

    def _full(self, peer: _Peer) -> str:
        """Why no further request of this peer may wait for its handler; empty: it may."""
        if peer.in_flight >= self._limits.max_in_flight:
            return "max_in_flight"
        return "max_udp_in_flight" if len(self._handlers) >= self._limits.max_udp_in_flight else ""

    def _finished(self, asked: _Asked, pdu: bytes | None) -> None:
        asked.peer.in_flight -= 1
        if pdu is not None:
            self._send(asked, pdu)
        if not self._handlers:
            self._idle.set()

    def _send(self, asked: _Asked, pdu: bytes) -> None:
        unit, _, transaction = asked.frame
        data = self._framer.encode(unit, pdu, transaction)
        if self._socket is None:
            self._abandon(asked, OSError(errno.EBADF, "the socket is lost"))
            return
        try:
            self._socket.sendmsg((data,), asked.ancillary, 0, asked.address)
        except OSError as error:  # a full buffer too: the client asks again, as it does when a datagram is lost
            self._abandon(asked, error)

    def _abandon(self, asked: _Asked, error: OSError) -> None:
        name = errno.errorcode.get(error.errno or 0, "unknown")
        self._observer.notify(Event(EventKind.ANSWER_ABANDONED, asked.peer.info.peer, name, str(error), error=error))

    def exempt(self, future: asyncio.Future[Any]) -> None:
        """Give up the request whose handler this is: it is not waited for, and stays unanswered."""
        self._handlers.exempt(future)


def _learn_the_address_asked(sock: socket.socket) -> None:
    """Be told which address a datagram was for: to answer from there, and to see what went to many hosts."""
    if sys.platform != "linux":
        return
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)


def _is_unicast(ancillary: Ancillary) -> bool:
    """The datagram was for us alone, not for many hosts, who would all answer."""
    for level, _, data in ancillary:
        if level == socket.IPPROTO_IP:
            _, ours, asked = _V4.unpack(data)
            return bool(ours == asked)
        return data[0] != _MULTICAST_V6
    return True


def _from_there(ancillary: Ancillary) -> Ancillary:
    """What makes an answer leave from the address that was asked; by whichever interface leads to the peer."""
    return [
        (level, kind, _ANY_INTERFACE + data[4:] if level == socket.IPPROTO_IP else data)
        for level, kind, data in ancillary
    ]
