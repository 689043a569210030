"""A raw client for the tests of the scripted peer."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from everbus.client.endpoint import parse_endpoint
from everbus.testing import ScriptedPeer

ASK = bytes.fromhex("000500000006010300000001")
"""One holding register, from address 0 of unit 1."""

RIGHT = bytes.fromhex("0005000000050103020000")


@contextmanager
def connected(peer: ScriptedPeer) -> Iterator[socket.socket]:
    """A socket to the peer, with a timeout."""
    endpoint = parse_endpoint(peer.url)
    with (
        socket.socket(socket.AF_UNIX)
        if endpoint.path
        else socket.socket(socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET) as sock
    ):
        sock.settimeout(5.0)
        sock.connect(endpoint.path or (endpoint.host, endpoint.port))
        yield sock


def heard(sock: socket.socket, size: int) -> bytes:
    """So many bytes, or what came before the end."""
    data = b""
    while len(data) < size and (more := sock.recv(size - len(data))):
        data += more
    return data


def ask(transaction: int, pdu: str = "0300000001") -> bytes:
    """A request to unit 1."""
    data = bytes.fromhex(pdu)
    return transaction.to_bytes(2) + b"\0\0" + (len(data) + 1).to_bytes(2) + b"\x01" + data


def ended(peer: ScriptedPeer, request: bytes = ASK) -> None:
    """Run the peer, and see it end the connection instead of answering."""
    with peer, connected(peer) as sock:
        sock.sendall(request)
        assert sock.recv(10) == b""
