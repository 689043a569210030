"""TLS for blocking clients, on a socket that never blocks."""

from __future__ import annotations

import errno
import socket
import ssl
import threading
from contextlib import suppress
from typing import Any

from everbus.tls import in_words

__all__ = ["SecureSocket"]


class SecureSocket(ssl.SSLSocket):
    """A client's socket with TLS, for the blocking host: that it must wait it says as a plain one, ``BlockingIOError``.

    Receive 16384 bytes at a time: that is a whole record, so that nothing stays inside where ``poll`` does not
    see it. Threads may send and receive at once; OpenSSL does not allow it, so that each waits for the other.
    """

    lock: threading.RLock

    @classmethod
    def wrap(cls, sock: socket.socket, context: ssl.SSLContext, name: str) -> SecureSocket:
        """Secure a connected socket, within its timeout. It is taken over, and closed if that fails.

        Args:
            sock: connected, with the timeout of the handshake.
            context: as ``client_context`` makes it.
            name: of the server, as its certificate must have it.

        Raises:
            OSError: the server is not who it should be, refuses us, or is not done in time.
        """
        context.sslsocket_class = cls
        secured = context.wrap_socket(sock, server_hostname=name, do_handshake_on_connect=False)
        assert isinstance(secured, cls)
        secured.lock = threading.RLock()
        try:
            secured.do_handshake()
        except (ssl.SSLError, ConnectionError) as error:
            secured.close()
            raise in_words(error) from error
        except BaseException:
            secured.close()
            raise
        return secured

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        try:
            with self.lock:
                return super().recv(buflen, flags)
        except ssl.SSLWantReadError as error:
            raise BlockingIOError(errno.EAGAIN, str(error)) from None
        except ssl.SSLError as error:
            raise in_words(error) from error

    def send(self, data: Any, flags: int = 0) -> int:
        try:
            with self.lock:
                return super().send(data, flags)
        except ssl.SSLWantWriteError as error:
            raise BlockingIOError(errno.EAGAIN, str(error)) from None
        except OSError:
            with suppress(BlockingIOError):
                self.recv()  # the peer may have said why: in TLS 1.3 it refuses a certificate after the handshake
            raise
