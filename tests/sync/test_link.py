from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from everbus.errors import (
    ConnectError,
    ConnectionLostError,
    InvalidRequestError,
    ModbusTimeoutError,
    NetworkError,
    UsageError,
)
from everbus.sync.client import Client
from everbus.testing import ScriptedPeer, scripted
from tests.rogue import ADDRESS, VALUES, bank, value


def quick(url: str, **options: float) -> Client:
    return Client(url, timeout_s=options.pop("timeout_s", 0.1), retries=int(options.pop("retries", 0)), **options)  # type: ignore[arg-type]


def test_answers_may_come_split_glued_doubled_and_in_drops() -> None:
    script = [scripted.duplicate(3), scripted.answer, scripted.drip(0.002), scripted.answer]
    with ScriptedPeer(script, device=bank()) as peer, quick(peer.url, timeout_s=1.0) as client:
        unit = client.unit(1)
        for address in range(6):
            assert unit.read_holding_registers(address, 2) == [value(address), value(address + 1)]
        assert client.statistics().session.unknown == 2


def test_an_answer_in_drops_has_one_deadline() -> None:
    with ScriptedPeer(scripted.drip(0.03), device=bank()) as peer, quick(peer.url, timeout_s=0.1) as client:
        started = time.monotonic()
        with pytest.raises(ModbusTimeoutError):
            client.unit(1).read_holding_registers(0, 20)
        assert time.monotonic() - started < 1.0
        assert client.statistics().replaced == {"partial": 1}


def test_a_name_that_means_nothing() -> None:
    with pytest.raises(ConnectError, match="is not a name or address here"):
        Client("tcp://no-such-host.invalid", timeout_s=2.0).connect()


def test_a_peer_that_does_not_accept_costs_no_more_than_the_connect_timeout() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = []
        for _ in range(4):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
            waiting.append(sock)
        client = Client(f"tcp://127.0.0.1:{listener.getsockname()[1]}", connect_timeout_s=0.1)
        started = time.monotonic()
        with pytest.raises(ConnectError, match=r"no answer within 0\.\d+ s"):
            client.connect()
        assert 0.05 < time.monotonic() - started < 2.0
        for sock in waiting:
            sock.close()


def test_it_speaks_over_ipv6_and_unix_sockets(tmp_path: Path) -> None:
    for host in ("::1", str(tmp_path / "modbus.sock")):
        with ScriptedPeer(device=bank(), host=host) as peer, Client(peer.url) as client:
            assert client.unit(1).read_holding_registers(ADDRESS, 2) == VALUES


def test_it_connects_from_the_address_that_is_asked_for() -> None:
    with ScriptedPeer() as peer, Client(peer.url, source="127.0.0.7") as client:
        client.unit(1).write_coil(0, True)
        link = client._driver._link
        assert link is not None
        assert isinstance(link._channel, socket.socket)
        assert link._channel.getsockname()[0] == "127.0.0.7"


def test_descriptors_above_1023_work() -> None:
    import resource  # noqa: PLC0415

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        with ScriptedPeer(device=bank()) as peer, Client(peer.url) as client:
            assert client.unit(1).read_holding_registers(ADDRESS, 2) == VALUES
            link = client._driver._link
            assert link is not None
            assert link._channel.fileno() > 1023
    finally:
        for number in held:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_peer_that_takes_nothing_ends_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = Client(f"tcp://127.0.0.1:{server.getsockname()[1]}", timeout_s=0.2, retries=0)
        client.connect()
        link = client._driver._link
        assert link is not None
        with pytest.raises(ConnectionLostError, match="takes_nothing"):
            link.send(bytes(32 << 20), time.monotonic() + 0.1)
        client.close()
    assert issubclass(ConnectionLostError, NetworkError)
    assert issubclass(InvalidRequestError, UsageError)
