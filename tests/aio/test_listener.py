from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from everbus.aio import listener
from everbus.aio.listener import Listener, resolve
from everbus.aio.statistics import ListenerStatistics
from everbus.client.endpoint import Endpoint, parse_endpoint
from everbus.errors import ConnectError
from everbus.limits import Limits
from everbus.observe import EventKind
from everbus.testing import RecordingObserver
from tests.aio.wire import until

ANY_PORT = Endpoint("tcp", host="127.0.0.1", port=0)


class Door:
    """A listener, and what it hands over."""

    def __init__(
        self,
        endpoint: Endpoint = ANY_PORT,
        kind: type[Listener] = Listener,
        limits: Limits | None = None,
        make_room: Callable[[], bool] = lambda: False,
    ) -> None:
        self.observer = RecordingObserver()
        self.delivered: list[socket.socket] = []
        self.addresses: list[Any] = []
        self.on_deliver: Callable[[], object] = lambda: None
        self.in_use: set[int] = set()
        told = self.in_use.__contains__
        self.listener = kind(endpoint, limits or Limits(), self.observer, self._deliver, make_room, in_use=told)

    def _deliver(self, sock: socket.socket, address: Any, by: Listener) -> None:
        assert by is self.listener
        assert sock.gettimeout() == 0.0
        self.delivered.append(sock)
        self.addresses.append(address)
        self.on_deliver()

    @property
    def port(self) -> int:
        return self.listener.endpoint.port

    @property
    def number(self) -> int:
        """The listening descriptor."""
        assert self.listener._socket is not None
        return self.listener._socket.fileno()

    def reasons(self, kind: EventKind) -> list[str]:
        return self.observer.reasons(kind)

    def close(self) -> None:
        self.listener.close()
        for sock in self.delivered:
            sock.close()


def listens(door: Door) -> bool:
    return door.listener.listening


@contextmanager
def opened(door: Door) -> Iterator[Door]:
    door.listener.open()
    try:
        yield door
    finally:
        door.close()


@contextmanager
def client(door: Door) -> Iterator[socket.socket]:
    """A client whose connect needs nobody to accept: the kernel does it."""
    endpoint = door.listener.endpoint
    family = {"unix": socket.AF_UNIX}.get(endpoint.scheme, socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET)
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(2.0)
        sock.connect(endpoint.path if endpoint.scheme == "unix" else (endpoint.host, endpoint.port))
        sock.setblocking(False)
        yield sock


async def ended(sock: socket.socket) -> bool:
    """Whether the other end closes a connection soon."""
    try:
        async with asyncio.timeout(2.0):
            return await asyncio.get_running_loop().sock_recv(sock, 1) == b""
    except ConnectionError:
        return True


async def serves(door: Door) -> None:
    """Demand that the next client is handed over."""
    before = len(door.delivered)
    with client(door):
        await until(lambda: len(door.delivered) > before)


# Opening


async def test_it_listens_and_hands_over_what_it_accepts() -> None:
    with opened(Door()) as door:
        assert door.port > 0
        assert listens(door)
        assert repr(door.listener) == f"<Listener tcp://127.0.0.1:{door.port} open>"
        with client(door) as first, client(door) as second:
            await until(lambda: len(door.delivered) == 2)
            assert door.addresses == [first.getsockname(), second.getsockname()]
        assert door.reasons(EventKind.LISTENER_OPENED) == ["start"]
    assert not listens(door)
    assert repr(door.listener) == f"<Listener tcp://127.0.0.1:{door.port} closed>"


async def test_closing_twice_is_closing_once() -> None:
    with opened(Door()) as door:
        door.listener.close()
        assert not door.listener.check()
        assert not listens(door)
        assert door.observer.of(EventKind.LISTENER_LOST) == []


async def test_ipv6() -> None:
    with opened(Door(Endpoint("tcp", host="::1"))) as door:
        assert str(door.listener.endpoint) == f"tcp://[::1]:{door.port}"
        await serves(door)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.requirement("TG-4.3.2-nodelay", "TG-4.3.2-keepalive")
async def test_accepted_sockets_find_dead_peers_and_send_small_answers_at_once(host: str) -> None:
    limits = Limits(keepalive_idle_s=61, keepalive_interval_s=11, keepalive_probes=4, user_timeout_s=91.5)
    with opened(Door(Endpoint("tcp", host=host), limits=limits)) as door:
        await serves(door)
        (sock,) = door.delivered
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        names = ["TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT", "TCP_NODELAY"]
        found = [sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in names]
        assert found == [61, 11, 4, 91500, 1]


async def test_what_a_system_does_not_have_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "TCP_USER_TIMEOUT")
    with opened(Door()) as door:
        await serves(door)
        assert door.delivered[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


async def test_where_accepted_sockets_inherit_nothing_they_are_set_up_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Forgetful(FlakySocket):
        def accept(self) -> tuple[socket.socket, Any]:
            sock, address = super().accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
            return sock, address

    class Kind(Listener):
        def _bound_socket(self) -> socket.socket:
            sock = Forgetful(fileno=super()._bound_socket().detach())
            sock.setblocking(False)
            sock.script = iter(())
            return sock

    monkeypatch.setattr(listener, "sys", SimpleNamespace(platform="darwin"))
    with opened(Door(kind=Kind)) as door:
        await serves(door)
        assert door.delivered[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


async def test_no_more_are_accepted_in_one_turn_than_may() -> None:
    turns: list[int] = []

    with opened(Door(limits=Limits(accepts_per_wakeup=4))) as door:
        loop = asyncio.get_running_loop()
        clients = [client(door) for _ in range(10)]
        try:
            for one in clients:
                one.__enter__()
            while len(door.delivered) < 10:
                before = len(door.delivered)
                await asyncio.sleep(0)
                turns.append(len(door.delivered) - before)
                assert loop.is_running()
        finally:
            for one in clients:
                one.__exit__(None, None, None)
        assert [count for count in turns if count] == [4, 4, 2]


async def test_a_taken_port_is_an_error_that_says_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        door = Door(Endpoint("tcp", host="127.0.0.1", port=other.getsockname()[1]))
        with pytest.raises(ConnectError, match=r"cannot listen on tcp://127.*in use.*another port") as caught:
            door.listener.open()
        assert isinstance(caught.value.__cause__, OSError)
        assert not listens(door)


async def test_a_port_may_be_taken_again_at_once() -> None:
    with opened(Door()) as door:
        await serves(door)
        port = door.port
    with opened(Door(Endpoint("tcp", host="127.0.0.1", port=port))) as door:
        await serves(door)


async def test_an_address_of_another_machine_is_an_error_that_says_so() -> None:
    with pytest.raises(ConnectError, match="this machine does not have that address"):
        Door(Endpoint("tcp", host="192.0.2.1", port=0)).listener.open()


async def test_an_error_without_a_hint_is_told_as_it_is(tmp_path: Path) -> None:
    endpoint = Endpoint("unix", path=str(tmp_path / "missing" / "socket"))
    with pytest.raises(ConnectError, match="No such file or directory"):
        Door(endpoint).listener.open()
    long = Endpoint("unix", path=str(tmp_path / ("x" * 200)))
    with pytest.raises(ConnectError, match="too long"):
        Door(long).listener.open()


class NotAllowed(Listener):
    def _bound_socket(self) -> socket.socket:
        raise PermissionError(errno.EACCES, "Permission denied")


async def test_a_privileged_port_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ConnectError, match=r"rights.*5020"):
        Door(kind=NotAllowed).listener.open()


class DeafSocket(socket.socket):
    def listen(self, backlog: int = 0, /) -> None:
        raise OSError(errno.EADDRINUSE, "Address already in use")


class TakenLate(Listener):
    """Where two bind to one port, the second one's listen fails."""

    def _bound_socket(self) -> socket.socket:
        return DeafSocket(fileno=super()._bound_socket().detach())


async def test_nothing_is_left_open_when_listening_fails() -> None:
    door = Door(kind=TakenLate)  # the fixture around every test counts descriptors
    with pytest.raises(ConnectError, match="in use"):
        door.listener.open()
    assert not listens(door)
    assert door.observer.events == []


# Names


async def test_a_name_becomes_its_addresses() -> None:
    found = await resolve(parse_endpoint("tcp://localhost:5020"))
    assert Endpoint("tcp", host="127.0.0.1", port=5020) in found
    assert len(found) == len(set(found))
    assert await resolve(parse_endpoint("tcp://[::1]:5020")) == [Endpoint("tcp", host="::1", port=5020)]


async def test_a_path_stays_what_it_is() -> None:
    endpoint = Endpoint("unix", path="/nowhere/socket")
    assert await resolve(endpoint) == [endpoint]


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 70, "1.2.3.4.5"])
async def test_resolve_refuses_what_is_no_name_here(host: str) -> None:
    with pytest.raises(ConnectError, match="is not a name or address here") as caught:
        await resolve(Endpoint("tcp", host=host, port=5020))
    assert caught.value.__cause__ is not None


# Unix sockets


def unix(path: Path) -> Door:
    return Door(Endpoint("unix", path=str(path)))


async def test_a_unix_socket_serves_and_its_file_goes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "modbus.sock"
    with opened(unix(path)) as door:
        assert stat.S_ISSOCK(path.stat().st_mode)
        await serves(door)
        assert door.listener.check()
    assert not path.exists()


async def test_a_stale_socket_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "modbus.sock"
    with socket.socket(socket.AF_UNIX) as crashed:
        crashed.bind(str(path))
        crashed.listen()
    assert path.exists()
    with opened(unix(path)) as door:
        await serves(door)
    assert not path.exists()


async def test_a_live_owner_keeps_its_socket_file(tmp_path: Path) -> None:
    path = tmp_path / "modbus.sock"
    with opened(unix(path)) as first:
        with pytest.raises(ConnectError, match=r"in use.*live owner"):
            unix(path).listener.open()
        await serves(first)
        assert path.exists()


async def test_a_live_owner_that_is_too_busy_to_accept_keeps_it_too(tmp_path: Path) -> None:
    path = tmp_path / "modbus.sock"
    with socket.socket(socket.AF_UNIX) as owner, socket.socket(socket.AF_UNIX) as waiting:
        owner.bind(str(path))
        owner.listen(0)
        waiting.connect(str(path))
        with pytest.raises(ConnectError, match="cannot listen on unix://"):
            unix(path).listener.open()
        assert path.exists()


@pytest.mark.parametrize("kind", ["file", "folder"])
async def test_what_is_no_socket_is_never_touched(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "modbus.sock"
    if kind == "file":
        path.write_text("precious")
    else:
        path.mkdir()
    with pytest.raises(ConnectError, match="exists and is not a socket"):
        unix(path).listener.open()
    assert path.is_dir() if kind == "folder" else path.read_text() == "precious"


async def test_a_socket_file_that_is_not_ours_any_more_stays(tmp_path: Path) -> None:
    path = tmp_path / "modbus.sock"
    with opened(unix(path)) as first:
        path.unlink()
        with opened(unix(path)) as second:
            first.listener.close()
            await serves(second)
            assert path.exists()
    with opened(unix(path)) as door:
        path.unlink()
        door.listener.close()  # nothing is there to be removed


async def test_nothing_is_left_when_a_path_cannot_be_bound(tmp_path: Path) -> None:
    path = tmp_path / "modbus.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        with pytest.raises(ConnectError):
            unix(path).listener.open()
        assert path.exists()


# Errors of accept


class FlakySocket(socket.socket):
    """A listening socket whose accept fails as a script says."""

    script: Iterator[int]
    accepts = 0

    def accept(self) -> tuple[socket.socket, Any]:
        self.accepts += 1
        number = next(self.script, 0)
        if number:
            raise OSError(number, os.strerror(number))
        return super().accept()


class Flaky(Listener):
    script: Iterator[int] = iter(())

    def _bound_socket(self) -> socket.socket:
        sock = FlakySocket(fileno=super()._bound_socket().detach())
        sock.setblocking(False)
        sock.script = self.script
        return sock


def flaky(*errors: int, make_room: Callable[[], bool] = lambda: False) -> Door:
    kind = type("Scripted", (Flaky,), {"script": iter(errors)})
    return Door(kind=kind, make_room=make_room)


@pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EPERM, errno.EPROTO, errno.ENETDOWN, errno.EHOSTUNREACH])
async def test_a_hundred_errors_of_other_peers_do_not_hold_up_the_next(number: int) -> None:
    with opened(flaky(*[number] * 100)) as door:
        await serves(door)
        assert door.reasons(EventKind.ACCEPT_FAILED) == [errno.errorcode[number]] * 100
        (first, *_) = door.observer.of(EventKind.ACCEPT_FAILED)
        assert first.peer == str(door.listener.endpoint)
        assert isinstance(first.error, OSError)


async def test_an_error_without_a_number_is_told_as_unknown() -> None:
    with opened(flaky(99999)) as door:
        await serves(door)
        assert door.reasons(EventKind.ACCEPT_FAILED) == ["unknown"]


async def test_an_interrupted_accept_is_no_error() -> None:
    with opened(flaky(errno.EINTR, errno.EAGAIN)) as door:
        await serves(door)
        assert door.reasons(EventKind.ACCEPT_FAILED) == []


EXHAUSTED = [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM]


@pytest.mark.parametrize("number", EXHAUSTED)
async def test_without_descriptors_a_newcomer_is_refused_and_accepting_pauses(number: int) -> None:
    loop = asyncio.get_running_loop()
    times: list[float] = []

    def make_room() -> bool:
        times.append(loop.time())
        return False

    with opened(flaky(number, make_room=make_room)) as door:
        door.on_deliver = lambda: times.append(loop.time())
        with client(door) as first, client(door):
            assert await ended(first)
            assert door.reasons(EventKind.ACCEPT_FAILED) == [errno.errorcode[number]]
            assert door.reasons(EventKind.CONNECTION_REFUSED) == ["descriptors"]
            assert door.listener.check()
            await until(lambda: len(times) == 2)
        assert times[1] - times[0] >= 0.099
        await serves(door)


@pytest.mark.parametrize("number", EXHAUSTED)
async def test_without_descriptors_a_newcomer_takes_the_place_of_one_that_can_be_spared(number: int) -> None:
    spared: list[int] = []

    def make_room() -> bool:
        spared.append(1)
        return True

    with opened(flaky(number, make_room=make_room)) as door:
        await serves(door)
        assert spared == [1]
        assert door.reasons(EventKind.CONNECTION_REFUSED) == []


@pytest.mark.slow
async def test_the_pauses_grow_and_end_with_the_first_accept() -> None:
    loop = asyncio.get_running_loop()
    times: list[float] = []
    errors = iter([errno.EMFILE, errno.EMFILE] * 3)

    class Timed(FlakySocket):
        def accept(self) -> tuple[socket.socket, Any]:
            times.append(loop.time())
            return super().accept()

    class Kind(Listener):
        def _bound_socket(self) -> socket.socket:
            sock = Timed(fileno=super()._bound_socket().detach())
            sock.setblocking(False)
            sock.script = errors
            return sock

    with opened(Door(kind=Kind)) as door:
        with client(door):
            await until(lambda: door.delivered)
        failed = times[0:6:2]
        pauses = [later - earlier for earlier, later in zip(failed, [*failed[1:], times[6]], strict=True)]
        assert all(wanted - 0.001 <= pause for pause, wanted in zip(pauses, [0.1, 0.2, 0.4], strict=True)), pauses
        assert sum(pauses) < 2.0
        assert door.reasons(EventKind.ACCEPT_FAILED) == ["EMFILE"] * 3
        assert door.listener._pause_s == 0.0


async def test_no_pause_is_longer_than_a_second() -> None:
    with opened(flaky()) as door:
        for _ in range(10):
            door.listener._pause()
            door.listener._cancel_timer()
        assert door.listener._pause_s == 1.0
        door.listener._resume()
        await serves(door)


@pytest.mark.slow
@pytest.mark.parametrize("number", EXHAUSTED)
async def test_a_hundred_in_a_row_cost_no_core_and_no_flood(number: int) -> None:
    """Each pause lets one newcomer in by the reserve: 100 errors are some 50 newcomers, not a busy loop."""
    script = iter([number] * 100)
    kind = type("Scripted", (Flaky,), {"script": script})
    door = Door(kind=kind)
    with opened(door):
        with client(door):
            await asyncio.sleep(0.35)
            sock = door.listener._socket
            assert isinstance(sock, FlakySocket)
            assert sock.accepts <= 12  # 0.1 + 0.2 + ... s apart, two tries each
        for _ in script:
            pass  # one freed a descriptor
        with client(door):
            await until(lambda: door.delivered)


async def test_closing_during_a_pause_ends_it() -> None:
    door = flaky(errno.EMFILE)
    with opened(door), client(door) as one:
        assert await ended(one)
        door.listener.close()
        await asyncio.sleep(0.15)
        assert not listens(door)


async def test_it_may_be_closed_by_what_is_told_of_an_error_or_of_a_newcomer() -> None:
    class Closing(RecordingObserver):
        def notify(self, event: Any) -> None:
            super().notify(event)
            if event.kind is EventKind.ACCEPT_FAILED:
                door.listener.close()

    door = flaky(errno.EMFILE)
    door.listener._observer = Closing()
    with opened(door), client(door):
        await until(lambda: not listens(door))
    door = Door()
    door.on_deliver = door.listener.close
    with opened(door), client(door), client(door):
        await until(lambda: not listens(door))
        assert len(door.delivered) == 1


async def test_without_the_reserve_it_recovers_too() -> None:
    """Somebody else took the descriptor that was freed: the second accept fails as the first."""
    with opened(flaky(errno.EMFILE, errno.EMFILE, errno.EMFILE, errno.EMFILE)) as door:
        await serves(door)
        assert door.reasons(EventKind.ACCEPT_FAILED) == ["EMFILE", "EMFILE"]
        assert door.reasons(EventKind.CONNECTION_REFUSED) == []


# Loss and return


def close_number(door: Door) -> None:
    os.close(door.number)


def close_object(door: Door) -> None:
    assert door.listener._socket is not None
    door.listener._socket.close()


def shut_down(door: Door) -> None:
    assert door.listener._socket is not None
    door.listener._socket.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("end", [close_number, close_object])
async def test_a_listening_socket_that_was_closed_is_opened_again_once(end: Callable[[Door], None]) -> None:
    with opened(Door()) as door:
        port = door.port
        await serves(door)
        end(door)
        assert not door.listener.check()
        assert listens(door)
        assert door.port == port
        assert door.listener.check()
        assert door.listener.check()
        assert (door.listener.relistens, door.reasons(EventKind.LISTENER_LOST)) == (1, ["closed"])
        assert door.reasons(EventKind.LISTENER_OPENED) == ["start", "again"]
        await serves(door)


async def test_a_listening_socket_that_was_shut_down_is_opened_again_without_waiting_for_a_check() -> None:
    with opened(Door()) as door:
        await serves(door)
        shut_down(door)
        await until(lambda: door.listener.relistens == 1)
        assert door.reasons(EventKind.LISTENER_LOST) == ["shut down"]
        await serves(door)


async def test_a_number_that_is_somebody_elses_now_is_left_alone() -> None:
    with opened(Door()) as door:
        number = door.number
        with socket.socket() as mine:
            os.dup2(mine.fileno(), number)
            assert not door.listener.check()
            assert door.reasons(EventKind.LISTENER_LOST) == ["replaced"]
            assert os.fstat(number).st_ino == os.fstat(mine.fileno()).st_ino
            os.close(number)
        assert door.number != number
        await serves(door)


async def test_another_listening_socket_under_our_number_is_left_alone() -> None:
    with opened(Door()) as door:
        number = door.number
        with socket.create_server(("127.0.0.1", 0)) as other:
            os.dup2(other.fileno(), number)
            assert not door.listener.check()
            assert door.reasons(EventKind.LISTENER_LOST) == ["replaced"]
            os.close(number)
            other.settimeout(1.0)
            with socket.create_connection(other.getsockname()), other.accept()[0]:
                pass
        await serves(door)


async def test_a_number_that_one_of_our_connections_has_now_is_left_alone() -> None:
    loop = asyncio.get_running_loop()
    with opened(Door()) as door:
        number = door.number
        one, other = socket.socketpair()
        heard: list[bytes] = []
        os.dup2(one.fileno(), number)
        one.close()
        with socket.socket(fileno=number) as sock, other:
            loop.remove_reader(number)
            loop.add_reader(number, lambda: heard.append(sock.recv(100)))
            door.in_use.add(number)
            assert not door.listener.check()
            other.sendall(b"still there")
            await until(lambda: heard == [b"still there"])
            loop.remove_reader(number)
        await serves(door)


async def test_a_number_that_a_transport_of_this_loop_uses_now_is_left_alone() -> None:
    loop = asyncio.get_running_loop()
    with opened(Door()) as door:
        number = door.number
        one, other = socket.socketpair()
        os.dup2(one.fileno(), number)
        one.close()
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=socket.socket(fileno=number))
        with other:
            assert not door.listener.check()
            assert door.listener.relistens == 1
            transport.write(b"still there")
            assert other.recv(100) == b"still there"
            transport.close()
            await asyncio.sleep(0)
        await serves(door)


@pytest.mark.parametrize("end", [close_number, close_object])
async def test_closing_after_the_loss_closes_nothing(end: Callable[[Door], None]) -> None:
    with opened(Door()) as door:
        end(door)
        door.listener.close()
    with opened(Door()) as door:
        number = door.number
        with socket.socket() as mine:
            os.dup2(mine.fileno(), number)
            door.listener.close()
            assert os.fstat(number).st_ino == os.fstat(mine.fileno()).st_ino
            os.close(number)


@pytest.mark.slow
async def test_it_keeps_trying_while_the_address_is_taken_and_returns() -> None:
    with opened(Door()) as door:
        endpoint = ("127.0.0.1", door.port)
        close_number(door)
        with socket.create_server(endpoint):
            assert not door.listener.check()
            assert not listens(door)
            assert not door.listener.check()  # the back-off goes on by itself, once
            await asyncio.sleep(0.4)
            assert 2 <= len(door.reasons(EventKind.ACCEPT_FAILED)) <= 6
            assert set(door.reasons(EventKind.ACCEPT_FAILED)) == {"relisten EADDRINUSE"}
        await until(lambda: listens(door))
        assert door.listener.relistens == 1
        assert len(door.reasons(EventKind.LISTENER_LOST)) == 1
        await serves(door)


async def test_closing_ends_the_tries() -> None:
    with opened(Door()) as door:
        close_number(door)
        with socket.create_server(("127.0.0.1", door.port)):
            door.listener.check()
            door.listener.close()
        await asyncio.sleep(0.15)
        door.listener._listen_again()  # as if the timer had been due already
        assert not listens(door)


@pytest.mark.parametrize("number", [errno.EBADF, errno.EINVAL, errno.ENOTSOCK, errno.EOPNOTSUPP])
async def test_an_error_of_accept_that_tells_of_the_loss_leads_to_a_check(number: int) -> None:
    with opened(flaky(number)) as door:
        await serves(door)  # it is still ours: nothing was lost
        assert door.reasons(EventKind.ACCEPT_FAILED) == [errno.errorcode[number]]
        assert door.listener.relistens == 0


async def test_a_loss_during_a_pause_is_noticed_and_the_pause_ends() -> None:
    with opened(flaky(errno.EMFILE)) as door:
        with client(door) as one:
            assert await ended(one)
        close_number(door)
        assert not door.listener.check()
        assert door.listener.relistens == 1
        await serves(door)
        await asyncio.sleep(0.15)
        await serves(door)


async def test_a_loss_during_a_pause_is_noticed_at_its_end_at_the_latest() -> None:
    with opened(flaky(errno.EMFILE)) as door:
        with client(door) as one:
            assert await ended(one)
        close_number(door)
        await until(lambda: door.listener.relistens == 1)
        await serves(door)


async def test_a_unix_socket_returns_too(tmp_path: Path) -> None:
    path = tmp_path / "modbus.sock"
    with opened(unix(path)) as door:
        close_number(door)
        assert not door.listener.check()
        await serves(door)
    assert not path.exists()


async def test_statistics_say_how_it_stands() -> None:
    with opened(Door()) as door:
        assert door.listener.statistics() == ListenerStatistics(listening=True, relistens=0, paused_s=0.0)
        assert door.listener._socket is not None
        door.listener._socket.shutdown(socket.SHUT_RDWR)
        assert not door.listener.check()
        assert door.listener.statistics() == ListenerStatistics(listening=True, relistens=1, paused_s=0.0)
    assert not door.listener.statistics().listening


async def test_a_socket_file_that_somebody_removed_is_there_again(tmp_path: Path) -> None:
    path = tmp_path / "modbus.sock"
    with opened(Door(Endpoint("unix", path=str(path)))) as door:
        assert door.listener.check()
        path.unlink()
        assert not door.listener.check()
        assert door.observer.reasons(EventKind.LISTENER_LOST) == ["unlinked"]
        assert path.is_socket()
        assert door.listener.check()
        assert door.listener.relistens == 1


async def test_without_a_reserve_room_is_made_for_the_next_try() -> None:
    asked: list[bool] = []

    class Exhausted(Listener):
        def _close_reserve(self) -> None:
            super()._close_reserve()
            assert self._socket is not None
            asked.append(False)

    def make_room() -> bool:
        asked.append(True)
        return True

    with opened(Door(kind=Exhausted, make_room=make_room)) as door:
        assert door.listener._socket is not None
        real, door.listener._socket = door.listener._socket, Failing(door.listener._socket)
        try:
            door.listener._shed()
        finally:
            door.listener._socket = real
        assert asked[:2] == [False, True]
        assert door.delivered == []


class Failing(socket.socket):
    """A listening socket whose accept finds no descriptor."""

    def __init__(self, real: socket.socket) -> None:
        super().__init__(fileno=real.dup().detach())

    def accept(self) -> tuple[socket.socket, Any]:
        self.close()
        raise OSError(24, "too many open files")
