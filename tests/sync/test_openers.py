"""Blocking clients over everything that is not plain TCP: TLS, UDP, ASCII and RTU over TCP."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from everbus.aio.thread import serve_in_thread
from everbus.client.endpoint import Endpoint, TlsFiles, parse_endpoint
from everbus.errors import ConfigurationError, ConnectError, ConnectionLostError, ModbusTimeoutError
from everbus.service.local import LocalDevice
from everbus.sync.client import Client
from everbus.sync.openers import DatagramSocket
from everbus.sync.pool import Pool
from tests.aio.secure import plant
from tests.rogue import ADDRESS, VALUES, bank


@pytest.mark.parametrize("scheme", ["udp", "rtu+tcp", "ascii+tcp"])
def test_every_framing_and_family_is_spoken(scheme: str) -> None:
    hosts = [f"{scheme}://127.0.0.1:0", f"{scheme}://[::1]:0"]
    with serve_in_thread(LocalDevice(bank()), *hosts) as server:
        for url in server.endpoints:
            with Client(url) as client:
                assert client.unit(1).read_holding_registers(ADDRESS, 2) == VALUES
                client.unit(1).write_register(500, 7)
                assert client.unit(1).read_holding_registers(500, 1) == [7]


@pytest.mark.parametrize("scheme", ["udp", "tls"])
def test_threads_and_pools_share_connections(scheme: str) -> None:
    files = plant().server if scheme == "tls" else None
    with serve_in_thread(LocalDevice(bank()), Endpoint(scheme, "127.0.0.1", tls=files)) as server:
        endpoint = parse_endpoint(server.endpoints[0])
        if scheme == "tls":
            endpoint = replace(endpoint, tls=plant().client)
        with Client(endpoint, max_in_flight=8) as client, Pool() as pool, ThreadPoolExecutor(8) as threads:
            for unit in (client.unit(1), pool.unit(endpoint)):
                got = threads.map(lambda _, unit=unit: unit.read_holding_registers(ADDRESS, 2), range(64))
                assert list(got) == [VALUES] * 64
            assert client.statistics().connects == 1
            assert pool.statistics().opened == 1


def test_plain_tcp_needs_neither_tls_nor_serial_ports() -> None:
    code = "import sys; from everbus import Client; Client('tcp://plc'); print({'ssl', 'termios'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# UDP


@contextmanager
def datagrams(answer: Callable[[bytes], list[bytes]]) -> Iterator[str]:
    """A peer that answers each datagram with some."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))

        def serve() -> None:
            while True:
                asked, whose = sock.recvfrom(512)
                if not asked:
                    return
                for one in answer(asked):
                    sock.sendto(one, whose)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"udp://127.0.0.1:{sock.getsockname()[1]}"
        finally:
            sock.sendto(b"", sock.getsockname())
            thread.join()


def right(asked: bytes) -> bytes:
    """The answer to a read of one register: its own address."""
    return asked[:4] + bytes((0, 5, asked[6], 3, 2)) + asked[8:10]


def test_bad_datagrams_cost_nothing() -> None:
    def answer(asked: bytes) -> list[bytes]:
        return [b"", b"\0", right(asked)[:-1], right(asked) + b"\0", bytes(300), right(asked)]

    with datagrams(answer) as url, Client(url, timeout_s=1.0, retries=0) as client:
        for address in range(5):
            assert client.unit(1).read_holding_registers(address, 1) == [address]
        assert client.statistics().connects == 1


def test_ten_late_datagrams_give_no_wrong_value() -> None:
    late: list[bytes] = []

    def answer(asked: bytes) -> list[bytes]:
        if asked[9] % 2:
            return [*late, right(asked)]
        late.append(right(asked))
        return []

    with datagrams(answer) as url, Client(url, timeout_s=0.01, retries=0) as client:
        for address in range(0, 20, 2):
            with pytest.raises(ModbusTimeoutError):
                client.unit(1).read_holding_registers(address, 1)
            client.require_timeout(1.0)
            assert client.unit(1).read_holding_registers(address + 1, 1) == [address + 1]
            client.require_timeout(None)
        assert client.statistics().session.late == 10 + 9 + 8 + 7 + 6 + 5 + 4 + 3 + 2 + 1


def test_a_lost_datagram_is_asked_for_again() -> None:
    lost = iter([True])
    with (
        datagrams(lambda asked: [] if next(lost, False) else [right(asked)]) as url,
        Client(url, timeout_s=0.1, retries=1) as client,
    ):
        assert client.unit(1).read_holding_registers(9, 1) == [9]
        assert client.statistics().retries == 1


def test_where_nobody_listens_udp_says_so() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    client = Client(f"udp://127.0.0.1:{port}", timeout_s=1.0, retries=0)
    with pytest.raises(ConnectionLostError, match="refused"):
        client.unit(1).read_holding_registers(0, 1)
    client.close()


def test_a_datagram_that_is_not_taken_now_is_lost_whole() -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with DatagramSocket.of(here) as sock, there:
        sock.setblocking(False)
        assert [sock.send(bytes(1000)) for _ in range(1000)] == [1000] * 1000
        there.send(b"")
        with pytest.raises(BlockingIOError):
            sock.recv(512)


# TLS


@pytest.fixture
def secured() -> Iterator[Endpoint]:
    endpoint = Endpoint("tls", "127.0.0.1", tls=plant().server)
    with serve_in_thread(LocalDevice(bank()), endpoint) as server:
        yield replace(parse_endpoint(server.endpoints[0]), tls=plant().client)


def test_reads_and_writes_over_tls(secured: Endpoint) -> None:
    with Client(secured) as client:
        client.unit(1).write_registers(500, list(range(120)))
        assert client.unit(1).read_holding_registers(500, 120) == list(range(120))
        assert client.statistics().connects == 1


def test_a_server_with_another_name_is_refused(secured: Endpoint) -> None:
    with pytest.raises(ConnectError, match=r"certificate is refused: .*localhost"):
        Client(replace(secured, host="localhost"), retries=0).connect()


@pytest.mark.parametrize("who", ["nobody", "stranger"])
def test_who_is_refused_by_the_server_is_told_why(secured: Endpoint, who: str) -> None:
    files: TlsFiles = getattr(plant(), who)
    endpoint = replace(secured, tls=replace(files, ca=plant().client.ca))
    for pause_s in (0.0, 0.02):  # the alert comes behind the request, or before it
        with Client(endpoint, timeout_s=2.0, retries=0) as client:
            time.sleep(pause_s)
            with pytest.raises(ConnectionLostError, match=r"certificate|CA"):
                client.unit(1).read_holding_registers(0, 1)


def test_a_plain_server_is_no_tls_server() -> None:
    with serve_in_thread(LocalDevice(bank()), "tcp://127.0.0.1:0") as server:
        endpoint = replace(parse_endpoint(server.endpoints[0]), scheme="tls", tls=plant().client)
        with pytest.raises(ConnectError, match="TLS"):
            Client(endpoint, retries=0).connect()


def test_a_peer_that_never_shakes_hands_costs_no_more_than_the_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = Endpoint("tls", "127.0.0.1", silent.getsockname()[1], tls=plant().client)
        with pytest.raises(ConnectError, match=r"no answer within 0\.\d+ s"):
            Client(endpoint, connect_timeout_s=0.1).connect()


def test_files_that_cannot_be_used_are_refused_when_the_client_is_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nothing"):
        Client(f"tls://plc.example?ca={tmp_path}/nothing.pem")
