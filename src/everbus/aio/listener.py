"""One listening socket: the only thing that listens, and that listens again.

It accepts by itself. asyncio's own accept loop repeats ``backlog`` times after EMFILE and writes
megabytes of log (CPython issue 151615), and it gives no way to refuse.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from everbus.aio.statistics import ListenerStatistics
from everbus.client.endpoint import Endpoint
from everbus.errors import ConnectError
from everbus.limits import Limits
from everbus.observe import Event, EventKind, Observer

__all__ = ["Listener", "descriptor_identity", "peer_name", "resolve", "why_not_bound"]

_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_NOT_LISTENING: Final = frozenset({errno.EBADF, errno.ENOTSOCK, errno.EINVAL, errno.EOPNOTSUPP})
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 1.0

Deliver = Callable[[socket.socket, Any, "Listener"], None]


async def resolve(endpoint: Endpoint) -> list[Endpoint]:
    """The addresses behind an endpoint's name, each as an endpoint of its own.

    Raises:
        ConnectError: the name means nothing here.
    """
    if not endpoint.host:
        return [endpoint]
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ConnectError(f"cannot listen on {endpoint}: {endpoint.host!r} is not a name or address here") from error
    hosts = dict.fromkeys(str(address[0]) for *_, address in found)
    return [replace(endpoint, host=host) for host in hosts]


class Listener:
    """Owns one listening socket, and the reserve descriptor that helps when descriptors run out.

    Args:
        endpoint: a single address, as ``resolve`` gives it, or a Unix socket's path.
        limits: backlog, accepts per wake-up, keepalive.
        observer: told of errors, of the socket's loss and of its return.
        deliver: gets each accepted socket, which is its own from then on.
        make_room: called when descriptors have run out: ends a connection if one can be spared.
        in_use: whether a descriptor is a connection's: a lost one of ours may have become that.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        limits: Limits,
        observer: Observer,
        deliver: Deliver,
        make_room: Callable[[], bool],
        *,
        in_use: Callable[[int], bool],
    ) -> None:
        self.endpoint: Endpoint = endpoint
        self._limits = limits
        self._observer = observer
        self._deliver = deliver
        self._make_room = make_room
        self._in_use = in_use
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None
        self._number = -1
        self._identity: tuple[int, int] = (0, 0)
        self._file: tuple[int, int] = (0, 0)
        self._reserve = -1
        self._pause_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self.relistens: int = 0

    def __repr__(self) -> str:
        return f"<Listener {self.endpoint} {'open' if self._socket else 'closed'}>"

    @property
    def listening(self) -> bool:
        """Its socket is open."""
        return self._socket is not None

    def statistics(self) -> ListenerStatistics:
        """A snapshot of what it has done."""
        return ListenerStatistics(self.listening, self.relistens, self._pause_s)

    def open(self) -> None:
        """Bind and listen.

        Raises:
            ConnectError: the address is taken, privileged, or not ours; nothing is left open.
        """
        try:
            self._open("start")
        except OSError as error:
            raise ConnectError(f"cannot listen on {self.endpoint}: {why_not_bound(error)}") from error

    def _open(self, reason: str) -> None:
        sock = self._bound_socket()
        try:
            sock.listen(self._limits.backlog)
            identity = descriptor_identity(sock.fileno())
            if self.endpoint.scheme == "unix":
                found = os.stat(self.endpoint.path)
                self._file = (found.st_dev, found.st_ino)
            self._open_reserve()
            self._loop.add_reader(sock.fileno(), self._on_ready)
        except BaseException:
            sock.close()
            self._close_reserve()
            raise
        self._socket = sock
        self._number = sock.fileno()
        self._identity = identity
        if self.endpoint.scheme != "unix":
            self.endpoint = replace(self.endpoint, port=sock.getsockname()[1])
        self._observer.notify(Event(EventKind.LISTENER_OPENED, str(self.endpoint), reason))

    def _bound_socket(self) -> socket.socket:
        if self.endpoint.scheme == "unix":
            return _bound_unix_socket(self.endpoint.path)
        family = socket.AF_INET6 if ":" in self.endpoint.host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            self._set_options(sock)
            sock.bind((self.endpoint.host, self.endpoint.port))
        except BaseException:
            sock.close()
            raise
        return sock

    def _set_options(self, sock: socket.socket) -> None:
        """Find dead peers, send small answers at once; on Linux accepted sockets inherit it all."""
        limits = self._limits
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (
            ("TCP_KEEPIDLE", limits.keepalive_idle_s),
            ("TCP_KEEPINTVL", limits.keepalive_interval_s),
            ("TCP_KEEPCNT", limits.keepalive_probes),
            ("TCP_USER_TIMEOUT", round(limits.user_timeout_s * 1000)),
            ("TCP_NODELAY", 1),
        ):
            if option := getattr(socket, name, 0):
                sock.setsockopt(socket.IPPROTO_TCP, option, value)

    # Accepting

    def _on_ready(self) -> None:
        for _ in range(self._limits.accepts_per_wakeup):
            if self._socket is None:
                return
            try:
                sock, address = self._socket.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if not self._accept_failed(error):
                    return
                continue
            self._pause_s = 0.0
            self._hand_over(sock, address)

    def _hand_over(self, sock: socket.socket, address: Any) -> None:
        sock.setblocking(False)
        if self.endpoint.scheme != "unix" and sys.platform != "linux":
            self._set_options(sock)
        self._deliver(sock, address, self)

    def _accept_failed(self, error: OSError) -> bool:
        """Count an error of accept; tell whether to try again at once."""
        name = errno.errorcode.get(error.errno or 0, "unknown")
        self._observer.notify(Event(EventKind.ACCEPT_FAILED, str(self.endpoint), name, str(error), error=error))
        if error.errno in _EXHAUSTED:
            self._shed()
            self._pause()
            return False
        if error.errno in _NOT_LISTENING:
            self.check()
            return False
        return True  # ECONNABORTED, EPERM, EPROTO: that peer's affair, the next one is waiting

    def _shed(self) -> None:
        """Descriptors have run out: use the reserve for one newcomer, so that none is left hanging.

        It is served if a connection can be spared for it, else closed at once.
        """
        self._close_reserve()
        if self._socket is None:
            return
        try:
            sock, address = self._socket.accept()
        except BlockingIOError:
            return
        except OSError:
            self._make_room()  # somebody took the reserve's descriptor: the next try has one
            return
        if self._make_room():
            self._hand_over(sock, address)
        else:
            sock.close()
            event = Event(EventKind.CONNECTION_REFUSED, str(address), "descriptors", "no descriptor is left")
            self._observer.notify(event)

    def _pause(self) -> None:
        """Stop accepting for a while; longer each time until an accept succeeds."""
        if self._socket is None:
            return
        self._pause_s = min(_LONGEST_PAUSE_S, self._pause_s * 2 or _FIRST_PAUSE_S)
        self._loop.remove_reader(self._socket.fileno())
        self._timer = self._loop.call_later(self._pause_s, self._resume)

    def _resume(self) -> None:
        self._timer = None
        if self._socket is not None and self.check():
            self._open_reserve()
            self._loop.add_reader(self._socket.fileno(), self._on_ready)

    def _open_reserve(self) -> None:
        if self._reserve < 0:
            with suppress(OSError):
                self._reserve = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _close_reserve(self) -> None:
        if self._reserve >= 0:
            os.close(self._reserve)
            self._reserve = -1

    # Loss and return

    def check(self) -> bool:
        """Make sure that the listening descriptor is still ours; called by the sweep.

        Somebody else in the process may have closed it, and its number may be in use again. Then
        nothing is closed here, and this, the one owner, listens again with back-off.
        """
        if self._socket is None:
            return False
        problem = self._problem(self._socket)
        if not problem:
            return True
        self._let_go(self._socket, problem)
        self._socket = None
        self._observer.notify(Event(EventKind.LISTENER_LOST, str(self.endpoint), problem))
        self._cancel_timer()
        self._pause_s = 0.0
        self._listen_again()
        return False

    def _let_go(self, sock: socket.socket, problem: str) -> None:
        """Forget a socket that we lost; its number is closed only if it is still ours."""
        sock.detach()
        if not self._in_use(self._number):
            with suppress(RuntimeError):  # a transport of somebody else's in this loop uses the number by now
                self._loop.remove_reader(self._number)
        if problem in ("shut down", "unlinked"):
            os.close(self._number)

    def _problem(self, sock: socket.socket) -> str:
        if sock.fileno() < 0:
            return "closed"
        try:
            if descriptor_identity(sock.fileno()) != self._identity:
                return "replaced"
            accepting = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError:
            return "closed"
        if not accepting:
            return "shut down"
        return "" if self._file_is_ours() else "unlinked"

    def _file_is_ours(self) -> bool:
        """Nobody has removed or replaced the socket's file: newcomers find us."""
        if self.endpoint.scheme != "unix":
            return True
        with suppress(OSError):
            found = os.stat(self.endpoint.path)
            return (found.st_dev, found.st_ino) == self._file
        return False

    def _listen_again(self) -> None:
        self._timer = None
        if self._closed:
            return
        try:
            self._open("again")
        except OSError as error:
            self._pause_s = min(_LONGEST_PAUSE_S, self._pause_s * 2 or _FIRST_PAUSE_S)
            name = errno.errorcode.get(error.errno or 0, "unknown")
            event = Event(EventKind.ACCEPT_FAILED, str(self.endpoint), f"relisten {name}", str(error), error=error)
            self._observer.notify(event)
            self._timer = self._loop.call_later(self._pause_s, self._listen_again)
        else:
            self.relistens += 1

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        """Stop listening, for good. Idempotent."""
        self._closed = True
        self._cancel_timer()
        self._close_reserve()
        sock, self._socket = self._socket, None
        if sock is None:
            return
        problem = self._problem(sock)
        if problem in ("closed", "replaced"):
            self._let_go(sock, problem)
            return
        self._loop.remove_reader(sock.fileno())
        sock.close()
        if self.endpoint.scheme == "unix":
            self._unlink()

    def _unlink(self) -> None:
        """Remove our socket file, unless somebody else's stands there by now."""
        with suppress(OSError):
            if self._file_is_ours():
                os.unlink(self.endpoint.path)


def descriptor_identity(number: int) -> tuple[int, int]:
    """What tells one descriptor's file from another's."""
    found = os.fstat(number)
    return found.st_dev, found.st_ino


def _bound_unix_socket(path: str) -> socket.socket:
    """A socket bound to a path; a stale socket file there is replaced, a live owner's is not."""
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise OSError(errno.EEXIST, f"{path} exists and is not a socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)
            else:
                raise OSError(errno.EADDRINUSE, f"{path} has a live owner")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.bind(path)
    except BaseException:
        sock.close()
        raise
    return sock


def why_not_bound(error: OSError) -> str:
    """What a bind error means, and what to try."""
    hints = {
        errno.EADDRINUSE: "the address is in use; stop the other program or choose another port",
        errno.EACCES: "permission denied; ports below 1024 need rights (CAP_NET_BIND_SERVICE), 5020 does not",
        errno.EADDRNOTAVAIL: "this machine does not have that address",
        errno.ENOENT: "the directory of the socket is not there",
        errno.ENOTDIR: "the path leads through what is no directory",
    }
    hint = hints.get(error.errno or 0)
    return f"{hint} ({error})" if hint else str(error)


def peer_name(address: Any) -> tuple[str, str]:
    """Host, and host with port, of a peer's socket address; empty for Unix sockets."""
    if not isinstance(address, tuple):
        return "", ""
    host, port = str(address[0]), address[1]
    return host, f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
