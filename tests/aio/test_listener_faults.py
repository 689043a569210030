from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from everbus.aio.listener import Listener
from everbus.aio.statistics import ListenerStatistics
from everbus.client.endpoint import Endpoint
from everbus.observe import EventKind
from everbus.testing import RecordingObserver
from tests.aio.listening import Door, FlakySocket, client, ended, listens, opened, serves, unix
from tests.aio.wire import until

# Errors of accept


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
