from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from everbus.sync.secure import SecureSocket
from everbus.tls import client_context, server_context
from tests.aio.secure import HOST, plant


@pytest.fixture
def secured() -> Iterator[tuple[SecureSocket, ssl.SSLSocket]]:
    """Both ends of a connection, the client's not blocking."""
    ours, theirs = socket.socketpair()
    ours.settimeout(5.0)
    theirs.settimeout(5.0)
    with ThreadPoolExecutor(1) as other:
        accepted = other.submit(server_context(plant().server).wrap_socket, theirs, server_side=True)
        end = SecureSocket.wrap(ours, client_context(plant().client), HOST)
        end.setblocking(False)
        with end, accepted.result() as far:
            yield end, far


def test_a_blocking_client_waits_as_with_a_plain_socket(secured: tuple[SecureSocket, ssl.SSLSocket]) -> None:
    end, far = secured
    with pytest.raises(BlockingIOError):
        end.recv(16384)
    far.sendall(bytes(16384))
    select.select([end], [], [], 5.0)
    assert end.recv(16384) == bytes(16384)
    assert end.pending() == 0
    with pytest.raises(BlockingIOError):
        fill(end)


def fill(end: SecureSocket) -> None:
    while True:
        end.send(bytes(16384))


def test_a_blocking_client_is_refused_by_whom_it_does_not_know() -> None:
    ours, theirs = socket.socketpair()
    with theirs, ThreadPoolExecutor(1) as other:
        accepted = other.submit(server_context(plant().server).wrap_socket, theirs, server_side=True)
        with pytest.raises(ConnectionAbortedError, match="the peer's certificate is refused") as caught:
            SecureSocket.wrap(ours, client_context(replace(plant().stranger, ca=plant().stranger.cert)), HOST)
        assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
        assert isinstance(accepted.exception(), ssl.SSLError)
    assert ours.fileno() == -1
