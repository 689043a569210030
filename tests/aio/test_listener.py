from __future__ import annotations

import asyncio
import errno
import socket
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from everbus.aio import listener
from everbus.aio.listener import Listener, resolve
from everbus.client.endpoint import Endpoint, parse_endpoint
from everbus.errors import ConnectError
from everbus.limits import Limits
from everbus.observe import EventKind
from tests.aio.listening import Door, FlakySocket, client, listens, opened, serves, unix
from tests.aio.wire import until

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
