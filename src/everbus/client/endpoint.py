"""Endpoints: where a server listens and a client connects, as one URL.

``tcp://host[:port]``, ``rtu+tcp://host:port`` (RTU frames over TCP, as converters speak it),
``unix:///path``; a bare ``host[:port]`` is tcp. IPv6 addresses stand in
brackets: ``tcp://[::1]:5020``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from everbus.errors import ConfigurationError

__all__ = ["DEFAULT_SERVER_ENDPOINT", "MODBUS_PORT", "Endpoint", "as_endpoint", "parse_endpoint"]

MODBUS_PORT: Final = 502
DEFAULT_SERVER_ENDPOINT: Final = "tcp://127.0.0.1:5020"
"""Servers listen here unless told otherwise: no rights needed, nobody else can reach it."""

_SCHEMES: Final = ("tcp", "rtu+tcp", "unix")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One end of a link.

    Args:
        scheme: ``tcp``, ``rtu+tcp`` or ``unix``.
        host: name or address; without brackets. Empty for unix.
        port: 0..65535; 0 lets the system choose, for servers.
        path: of the socket file, for unix.
    """

    scheme: str
    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def identified(self) -> bool:
        """Its framing has transaction ids: MBAP, not RTU."""
        return self.scheme != "rtu+tcp"

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def as_endpoint(given: str | Endpoint) -> Endpoint:
    """An endpoint of what a user gives: one, or its URL.

    Raises:
        ConfigurationError: it is neither.
    """
    return given if isinstance(given, Endpoint) else parse_endpoint(given)


def parse_endpoint(text: str, default_port: int = MODBUS_PORT) -> Endpoint:
    """Read an endpoint from its URL.

    Args:
        text: the URL, or a bare ``host[:port]``.
        default_port: used where the URL has none.

    Raises:
        ConfigurationError: it is not one; the message says what is wrong and shows a right one.
    """
    scheme, separator, rest = text.strip().partition("://")
    if not separator:
        scheme, rest = "tcp", text.strip()
    scheme = scheme.lower()
    if scheme not in _SCHEMES:
        raise ConfigurationError(f"{text!r}: scheme {scheme!r} is not one of {', '.join(_SCHEMES)}")
    if scheme == "unix":
        if not rest.startswith("/") or not rest.isprintable():
            raise ConfigurationError(f"{text!r}: a unix endpoint needs an absolute path, as in unix:///run/modbus.sock")
        return Endpoint("unix", path=rest)
    return _parse_tcp(scheme, text, rest.rstrip("/"), default_port)


def _parse_tcp(scheme: str, text: str, rest: str, default_port: int) -> Endpoint:
    host, port_text = rest, ""
    if rest.startswith("["):
        host, bracket, behind = rest[1:].partition("]")
        if not bracket or (behind and not behind.startswith(":")):
            raise ConfigurationError(f"{text!r}: an IPv6 address stands in brackets, as in tcp://[::1]:5020")
        port_text = behind[1:]
    elif rest.count(":") == 1:
        host, _, port_text = rest.partition(":")
    elif ":" in rest:
        raise ConfigurationError(f"{text!r}: an IPv6 address stands in brackets, as in tcp://[::1]:5020")
    if not host or not host.isprintable() or any(character in host for character in "/?#@[] "):
        raise ConfigurationError(f"{text!r}: there is no host in it; a right one is tcp://192.0.2.7:502")
    digits = port_text.isascii() and port_text.isdigit() and len(port_text) <= 5
    if port_text and not (digits and int(port_text) <= 65535):
        raise ConfigurationError(f"{text!r}: port {port_text!r} is not a number of 0..65535")
    return Endpoint(scheme, host=host, port=int(port_text) if port_text else default_port)
