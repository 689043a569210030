from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from everbus.aio.client import AsyncClient
from everbus.errors import ModbusTimeoutError, UsageError
from everbus.protocol.framing.rtu import RtuFramer
from everbus.service.bank import Bank
from everbus.sync.client import Client
from everbus.testing import ScriptedPeer, no_leaks, scripted, steps
from tests.testing.wire import ASK, RIGHT, ask, connected, ended, heard


def test_every_step_is_offered() -> None:
    assert set(steps.__all__) - {"Channel"} == set(scripted.__all__) - {"Received", "ScriptedPeer"}


def test_it_answers_from_its_device_when_the_script_has_ended() -> None:
    bank = Bank()
    bank.write_holding_registers(0, [0x2A])
    with ScriptedPeer([scripted.silent, scripted.glued], device=bank) as peer, connected(peer) as sock:
        for transaction in range(3):
            sock.sendall(ask(transaction))
        assert heard(sock, 22) == bytes.fromhex("000100000005010302002A000200000005010302002A")
        assert [received.frame.transaction for received in peer.requests] == [0, 1, 2]


def test_it_tells_what_came_from_whom_and_when() -> None:
    begin = time.monotonic()
    with ScriptedPeer() as peer, connected(peer) as first, connected(peer) as second:
        for sock in (second, first):
            sock.sendall(ASK)
            heard(sock, len(RIGHT))
        assert [received.connection for received in peer.requests] == [2, 1]
        assert peer.requests[0].frame == (1, ASK[7:], 5)
        times = [received.at for received in peer.requests]
        assert begin < times[0] <= times[1] < time.monotonic()


def test_the_blocking_client() -> None:
    with ScriptedPeer([scripted.late(0.1)]) as peer, Client(peer.url, timeout_s=0.05, retries=0) as client:
        unit = client.unit(1)
        with pytest.raises(ModbusTimeoutError):
            unit.read_holding_registers(0, 2)
        assert unit.read_holding_registers(0, 2) == [0, 0]


async def test_the_asynchronous_client() -> None:
    with ScriptedPeer([scripted.silent] * 2) as peer:
        async with AsyncClient(peer.url, timeout_s=0.1) as client:
            with pytest.raises(ModbusTimeoutError):
                await client.unit(1).read_coils(0, 8)
    assert [received.frame.unit for received in peer.requests] == [1, 1]


def test_it_listens_and_ends_connections_when_told() -> None:
    with ScriptedPeer() as peer:
        with connected(peer) as sock:
            sock.sendall(ASK)
            heard(sock, len(RIGHT))
            peer.push(b"by the way")
            assert heard(sock, 10) == b"by the way"
            assert (peer.connections, peer.open_connections) == (1, 1)
            peer.stop_listening()
            peer.stop_listening()
            with pytest.raises(ConnectionRefusedError):
                connected(peer).__enter__()
            peer.drop_connections()
            assert sock.recv(10) == b""
            assert peer.open_connections == 0
        peer.listen_again()
        peer.listen_again()
        with connected(peer) as sock:
            sock.sendall(ASK)
            assert heard(sock, len(RIGHT)) == RIGHT


def test_it_restarts_at_the_same_place() -> None:
    with ScriptedPeer() as peer, connected(peer) as sock:
        url = peer.url
        peer.restart()
        assert sock.recv(10) == b""
        peer.listen_again()  # at once, not when its time has come
        with connected(peer) as again:
            again.sendall(ASK)
            assert heard(again, len(RIGHT)) == RIGHT
        assert peer.url == url


def test_it_lives_while_clients_knock_and_it_listens_on_and_off() -> None:
    with ScriptedPeer() as peer:
        done = threading.Event()

        def knock() -> None:
            while not done.is_set():
                with suppress(OSError), connected(peer):
                    pass

        thread = threading.Thread(target=knock)
        thread.start()
        for _ in range(100):
            peer.stop_listening()
            peer.listen_again()
        done.set()
        thread.join()
        with connected(peer) as sock:
            sock.sendall(ASK)
            assert heard(sock, len(RIGHT)) == RIGHT


def test_it_notices_that_a_client_has_left() -> None:
    with ScriptedPeer() as peer:
        with connected(peer) as sock:
            sock.sendall(ASK)
            heard(sock, len(RIGHT))
        end = time.monotonic() + 5.0
        while peer.open_connections:
            assert time.monotonic() < end
            time.sleep(0.005)


def test_what_is_not_modbus_is_closed() -> None:
    with ScriptedPeer() as peer, connected(peer) as sock:
        sock.sendall(ASK + b"GET / HTTP/1.0")
        assert heard(sock, 100) == RIGHT


def test_rtu_frames_and_their_broadcasts() -> None:
    bank = Bank()
    with ScriptedPeer(framing="rtu", device=bank) as peer, connected(peer) as sock:
        assert peer.url.startswith("rtu+tcp://")
        sock.sendall(RtuFramer("request").encode(0, bytes.fromhex("060000002A")))
        sock.sendall(bytes.fromhex("010300000001840A"))
        assert heard(sock, 7) == RtuFramer("request").encode(1, bytes.fromhex("0302002A"))
        assert [received.frame.unit for received in peer.requests] == [0, 1]


def test_other_addresses(tmp_path: Path) -> None:
    path = tmp_path / "m.sock"
    for host, url in (("::1", "tcp://[::1]:"), (str(path), f"unix://{path}")):
        with ScriptedPeer(host=host) as peer:
            assert peer.url.startswith(url)
            peer.stop_listening()
            peer.listen_again()
            with connected(peer) as sock:
                sock.sendall(ASK)
                assert heard(sock, len(RIGHT)) == RIGHT
    assert not path.exists()


def test_what_a_step_raises_ends_the_connections_and_is_raised_in_the_end() -> None:
    def broken(turn: scripted.Turn) -> None:
        raise LookupError(f"request {turn.number}")

    with no_leaks(0.0), pytest.raises(LookupError, match="request 1"):
        ended(ScriptedPeer([broken]))


def test_it_serves_on_after_a_step_has_raised() -> None:
    def broken(_: scripted.Turn) -> None:
        raise LookupError

    peer = ScriptedPeer([broken]).__enter__()
    for expected in (b"", RIGHT):
        with connected(peer) as sock:
            sock.sendall(ASK)
            assert heard(sock, len(RIGHT)) == expected
    with pytest.raises(LookupError):
        peer.__exit__()


def test_a_device_that_needs_time_is_refused() -> None:
    async def slow(_request: object, _context: object) -> None:
        raise AssertionError("nobody waits for it")

    with pytest.raises(UsageError, match="without waiting"):
        ended(ScriptedPeer(device=slow))  # type: ignore[arg-type]


def test_a_step_may_use_its_peer() -> None:
    with ScriptedPeer(lambda _: peer.push(b"hello")) as peer, connected(peer) as sock:
        sock.sendall(ASK)
        assert heard(sock, 5) == b"hello"


def test_a_place_that_is_taken_leaves_nothing_open(tmp_path: Path) -> None:
    path = tmp_path / "taken"
    path.write_text("mine")
    with pytest.raises(OSError, match="in use"), no_leaks(0.0):
        ScriptedPeer(host=str(path)).__enter__()
    assert path.read_text() == "mine"


def test_it_is_used_inside_of_its_block() -> None:
    with ScriptedPeer([scripted.late(60.0)]) as peer, connected(peer) as sock:
        sock.sendall(ASK)
    with pytest.raises(UsageError, match="with block"):
        peer.push(b"late")
