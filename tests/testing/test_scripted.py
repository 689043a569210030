from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from everbus.client.endpoint import parse_endpoint
from everbus.protocol.framing.mbap import MbapFramer
from everbus.service.bank import Bank
from everbus.testing import ScriptedPeer, scripted
from everbus.testing.scripted import Step

ASK = bytes.fromhex("000500000006010300000001")
RIGHT = bytes.fromhex("0005000000050103020000")


@contextmanager
def connected(peer: ScriptedPeer) -> Iterator[socket.socket]:
    endpoint = parse_endpoint(peer.url)
    with socket.create_connection((endpoint.host, endpoint.port)) as sock:
        sock.settimeout(5.0)
        yield sock


def heard(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := sock.recv(4096)):
        data += more
    return data


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (scripted.answer, RIGHT),
        (scripted.late(0.02), RIGHT),
        (scripted.duplicate(), RIGHT * 2),
        (scripted.wrong_transaction(), b"\x00\x06" + RIGHT[2:]),
        (scripted.wrong_unit(9), RIGHT[:6] + b"\x09" + RIGHT[7:]),
        (scripted.pdu(b"\x03\x00"), bytes.fromhex("000500000003010300")),
        (scripted.exception(2), bytes.fromhex("000500000003018302")),
        (scripted.exception(2, function=4), bytes.fromhex("000500000003018402")),
        (scripted.raw(b"what?"), b"what?"),
        (scripted.drip(0.002), RIGHT),
        (scripted.partial(4), RIGHT[:4]),
        (scripted.partial(4, then_close=True), RIGHT[:4]),
    ],
)
def test_a_step_decides_about_one_answer(step: Step, expected: bytes) -> None:
    with ScriptedPeer([step]) as peer, connected(peer) as sock:
        sock.sendall(ASK)
        assert heard(sock, len(expected)) == expected


@pytest.mark.parametrize("step", [scripted.close, scripted.reset])
def test_a_step_may_end_the_connection(step: Step) -> None:
    with ScriptedPeer([step]) as peer, connected(peer) as sock:
        sock.sendall(ASK)
        try:
            assert sock.recv(10) == b""
        except ConnectionResetError:
            assert step is scripted.reset
        else:
            assert step is scripted.close


def test_it_answers_from_its_device_when_the_script_has_ended() -> None:
    bank = Bank()
    bank.write_holding_registers(0, [0x2A])
    with ScriptedPeer([scripted.silent, scripted.glued], device=bank) as peer, connected(peer) as sock:
        for transaction in range(3):
            sock.sendall(MbapFramer().encode(1, ASK[7:], transaction))
        assert heard(sock, 22) == bytes.fromhex("000100000005010302002A000200000005010302002A")
        assert [received.frame.transaction for received in peer.requests] == [0, 1, 2]
        assert peer.requests[0].connection == 1


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


def test_rtu_frames_and_unix_sockets(tmp_path: Path) -> None:
    with ScriptedPeer(framing="rtu") as peer, connected(peer) as sock:
        assert peer.url.startswith("rtu+tcp://")
        sock.sendall(bytes.fromhex("010300000001840A"))
        assert heard(sock, 7) == bytes.fromhex("0103020000B844")
    path = tmp_path / "m.sock"
    with ScriptedPeer(host=str(path)) as peer, socket.socket(socket.AF_UNIX) as sock:
        assert peer.url == f"unix://{path}"
        sock.connect(str(path))
        sock.sendall(ASK)
        assert heard(sock, len(RIGHT)) == RIGHT
