"""A server of one connection that does what it is told, byte by byte."""

from __future__ import annotations

import socket
import threading

from everbus.soak.target import Target

GOOD = bytes.fromhex("0000 0005 01 03 02 002a")
"""A right answer to a read of one holding register of unit 1, without its transaction id."""


class Scripted:
    """Takes one connection and answers its first bytes with these pieces; then it reads to the end.

    Args:
        pieces: what it sends, one after the other.
        listener: what it listens at; None: a free port.
        closes: it closes the connection after the last piece, by itself.
    """

    def __init__(self, *pieces: bytes, listener: socket.socket | None = None, closes: bool = False) -> None:
        self.pieces = pieces
        self.closes = closes
        self.received = b""
        self.listener = listener or socket.create_server(("127.0.0.1", 0))
        self.thread = threading.Thread(target=self.serve)

    def __enter__(self) -> Target:
        self.thread.start()
        return Target(self.listener.family, self.listener.getsockname(), timeout_s=2, hold_s=0.3)

    def __exit__(self, *_: object) -> None:
        self.thread.join()
        self.listener.close()

    def serve(self) -> None:
        connection, _ = self.listener.accept()
        with connection:
            try:
                self.received = connection.recv(1000)
                for piece in self.pieces:
                    connection.sendall(piece)
                while not self.closes and (more := connection.recv(1000)):
                    self.received += more
            except ConnectionError:
                pass  # it was reset


def answer(number: int, rest: bytes = GOOD) -> bytes:
    """A whole answer."""
    return (number & 0xFFFF).to_bytes(2) + rest
