"""Endpoints: where a server listens and a client connects, as one URL.

============================ =========================================================
``tcp://host[:502]``         Modbus TCP; a bare ``host[:port]`` too
``tls://host[:802]``         Modbus/TCP Security; ``?cert=FILE&key=FILE&ca=FILE``
``udp://host[:502]``         one frame of Modbus TCP in each datagram
``rtu+tcp://host[:502]``     RTU frames over TCP, as converters speak it
``ascii+tcp://host[:502]``   ASCII frames over TCP
``rtu:///dev/ttyUSB0``       a serial line; a bare ``/dev/...`` too;
                             ``?baudrate=9600&parity=N&stopbits=2``
``ascii:///dev/ttyUSB0``     ASCII frames on a serial line
``unix:///path``             Modbus TCP over a Unix socket
============================ =========================================================

IPv6 addresses stand in brackets: ``tcp://[::1]:5020``. The names that the Web of Things uses,
``modbus+tcp://`` and the like, mean the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import quote, unquote

from everbus.errors import ConfigurationError

__all__ = [
    "DEFAULT_SERVER_ENDPOINT",
    "MODBUS_PORT",
    "TLS_PORT",
    "Endpoint",
    "Framing",
    "SerialSettings",
    "TlsFiles",
    "as_endpoint",
    "parse_endpoint",
]

MODBUS_PORT: Final = 502
TLS_PORT: Final = 802
DEFAULT_SERVER_ENDPOINT: Final = "tcp://127.0.0.1:5020"
"""Servers listen here unless told otherwise: no rights needed, nobody else can reach it."""

Framing: TypeAlias = Literal["mbap", "rtu", "ascii"]

_FRAMINGS: Final[dict[str, Framing]] = {
    "tcp": "mbap",
    "tls": "mbap",
    "udp": "mbap",
    "rtu": "rtu",
    "ascii": "ascii",
    "rtu+tcp": "rtu",
    "ascii+tcp": "ascii",
    "unix": "mbap",
}
_ALIAS: Final = "modbus+"

_ALLOWED: Final[dict[str, tuple[object, ...]]] = {
    "bytesize": (7, 8),
    "parity": ("E", "O", "N"),
    "stopbits": (1, 2),
    "rs485": (False, True),
    "echo": (False, True),
}
_PARITIES: Final = {"E": "E", "N": "N", "O": "O", "EVEN": "E", "NONE": "N", "ODD": "O"}
_SWITCH: Final = {"1": True, "0": False, "true": True, "false": False, "yes": True, "no": False}
_MOST_BAUD: Final = 20_000_000
_MOST_PORT: Final = 65535


@dataclass(frozen=True, slots=True)
class SerialSettings:
    """How a serial port is set. The defaults are the specification's.

    Args:
        baudrate: bits per second, 50..20000000.
        bytesize: data bits of a character: 8; ASCII mode has 7 or 8.
        parity: ``E`` even, ``O`` odd, ``N`` none.
        stopbits: 1 or 2. With no parity the specification wants 2, most devices have 1.
        rs485: the driver switches between sending and receiving, for ports that do not by themselves.
        echo: the port hears what it sends; that is skipped.

    Raises:
        ConfigurationError: no port can be set so.
    """

    baudrate: int = 19200
    bytesize: int = 8
    parity: str = "E"
    stopbits: int = 1
    rs485: bool = False
    echo: bool = False

    def __post_init__(self) -> None:
        if type(self.baudrate) is not int or not 50 <= self.baudrate <= _MOST_BAUD:
            raise ConfigurationError(f"baudrate is a whole number of 50..{_MOST_BAUD}, not {self.baudrate!r}")
        for name, allowed in _ALLOWED.items():
            if getattr(self, name) not in allowed:
                raise ConfigurationError(f"{name} is {_or(allowed)}, not {getattr(self, name)!r}")


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where the certificates of an endpoint are, in PEM.

    Args:
        cert: our certificate, with the chain behind it.
        key: its private key.
        ca: the certificates of those whom we trust.
    """

    cert: str = ""
    key: str = ""
    ca: str = ""


_USUAL: Final = {"rtu": SerialSettings(), "ascii": SerialSettings(bytesize=7)}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One end of a link.

    Args:
        scheme: ``tcp``, ``tls``, ``udp``, ``rtu``, ``ascii``, ``rtu+tcp``, ``ascii+tcp`` or ``unix``.
        host: name or address, without brackets. Empty for unix, rtu and ascii.
        port: 0..65535; 0 lets the system choose, for servers.
        path: of the socket file, for unix; of the serial port, for rtu and ascii.
        serial: of rtu and ascii, which get the specification's where it is None.
        tls: of tls, which gets empty names where it is None.

    Raises:
        ConfigurationError: the scheme is not one, or has no such settings.
    """

    scheme: str
    host: str = ""
    port: int = 0
    path: str = ""
    serial: SerialSettings | None = None
    tls: TlsFiles | None = None

    def __post_init__(self) -> None:
        if self.scheme not in _FRAMINGS:
            raise ConfigurationError(f"scheme {self.scheme!r} is not one of {', '.join(_FRAMINGS)}")
        if self.serial is None:
            object.__setattr__(self, "serial", _USUAL.get(self.scheme))
        elif self.scheme not in _USUAL:
            raise ConfigurationError(f"{self.scheme} has no serial settings, {_or(tuple(_USUAL))} has")
        elif self.scheme == "rtu" and self.serial.bytesize != 8:
            raise ConfigurationError(f"bytesize is 8 for rtu, not {self.serial.bytesize}")
        if self.tls is None:
            object.__setattr__(self, "tls", TlsFiles() if self.scheme == "tls" else None)
        elif self.scheme != "tls":
            raise ConfigurationError(f"{self.scheme} has no certificates, tls has")

    @property
    def framing(self) -> Framing:
        """What is around a PDU there."""
        return _FRAMINGS[self.scheme]

    @property
    def identified(self) -> bool:
        """Its frames have transaction ids: MBAP has, RTU and ASCII have not."""
        return self.framing == "mbap"

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix://{self.path}"
        if self.serial is not None:
            return f"{self.scheme}://{quote(self.path)}?{_serial_query(self.scheme, self.serial)}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        query = _tls_query(self.tls) if self.tls is not None else ""
        return f"{self.scheme}://{host}:{self.port}{query}"


def as_endpoint(given: str | Endpoint) -> Endpoint:
    """Whom a client is to ask, of what a user gives: an endpoint, or its URL.

    Raises:
        ConfigurationError: it is neither.
    """
    return given if isinstance(given, Endpoint) else parse_endpoint(given)


def parse_endpoint(text: str, default_port: int = MODBUS_PORT) -> Endpoint:
    """Read an endpoint from its URL.

    Args:
        text: the URL; a bare ``host[:port]`` is tcp, a bare ``/dev/...`` is rtu.
        default_port: used where the URL has none; for tls that is 802.

    Raises:
        ConfigurationError: it is not one; the message says what is wrong and shows a right one.
    """
    try:
        return _parse(text.strip(), default_port)
    except ConfigurationError as error:
        raise ConfigurationError(f"{_without_password(text)!r}: {error}") from None


def _parse(text: str, default_port: int) -> Endpoint:
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "rtu" if text.startswith("/dev/") else "tcp", text
    scheme = scheme.lower().removeprefix(_ALIAS)
    if scheme not in _FRAMINGS:
        raise ConfigurationError(f"scheme {scheme!r} is not one of {', '.join(_FRAMINGS)}")
    if scheme == "unix":
        return Endpoint(scheme, path=_path(rest, "unix:///run/modbus.sock"))
    place, _, query = rest.partition("?")
    if scheme in _USUAL:
        path = _path(unquote(place), f"{scheme}:///dev/ttyUSB0?baudrate=9600&parity=N")
        return Endpoint(scheme, path=path, serial=_serial_settings(scheme, query))
    host, port = _host_and_port(place.rstrip("/"))
    if scheme == "tls":
        return Endpoint(scheme, host, TLS_PORT if port is None else port, tls=_tls_files(query))
    _parameters(scheme, query, ())
    return Endpoint(scheme, host, default_port if port is None else port)


def _path(path: str, example: str) -> str:
    if not path.startswith("/") or not path.isprintable():
        raise ConfigurationError(f"it needs an absolute path, as in {example}")
    return path


def _host_and_port(place: str) -> tuple[str, int | None]:
    host, port_text = place, ""
    if "@" in place:
        raise ConfigurationError("there is no host in it, Modbus knows no users; a right one is tcp://192.0.2.7:502")
    if place.startswith("["):
        host, bracket, behind = place[1:].partition("]")
        if not bracket or (behind and not behind.startswith(":")):
            raise ConfigurationError("an IPv6 address stands in brackets, as in tcp://[::1]:5020")
        port_text = behind[1:]
    elif place.count(":") == 1:
        host, _, port_text = place.partition(":")
    elif ":" in place:
        raise ConfigurationError("an IPv6 address stands in brackets, as in tcp://[::1]:5020")
    if not host or not host.isprintable() or any(character in host for character in "/#[] "):
        raise ConfigurationError("there is no host in it; a right one is tcp://192.0.2.7:502")
    if port_text and not _is_number(port_text, _MOST_PORT):
        raise ConfigurationError(f"port {port_text!r} is not a number of 0..{_MOST_PORT}")
    return host, int(port_text) if port_text else None


# What stands behind the question mark


def _parameters(scheme: str, query: str, known: tuple[str, ...]) -> dict[str, str]:
    """The keys and values of a query, each once."""
    found: dict[str, str] = {}
    for part in query.split("&") if query else ():
        name, _, value = part.partition("=")
        if name not in known:
            allowed = f"{scheme} knows {', '.join(known)}" if known else f"{scheme} knows none"
            raise ConfigurationError(f"unknown key {name!r}; {allowed}")
        if name in found:
            raise ConfigurationError(f"key {name!r} is there twice")
        found[name] = unquote(value)
        if not found[name] or not found[name].isprintable():
            raise ConfigurationError(f"key {name!r} needs a value")
    return found


def _tls_files(query: str) -> TlsFiles:
    return TlsFiles(**_parameters("tls", query, _names(TlsFiles)))


def _tls_query(files: TlsFiles) -> str:
    given = [f"{name}={quote(value)}" for name in _names(TlsFiles) if (value := getattr(files, name))]
    return "?" + "&".join(given) if given else ""


def _serial_settings(scheme: str, query: str) -> SerialSettings:
    usual = _USUAL[scheme]
    found: dict[str, Any] = {name: getattr(usual, name) for name in _names(SerialSettings)}
    for name, value in _parameters(scheme, query, _names(SerialSettings)).items():
        found[name] = _serial_value(name, value)
    return SerialSettings(**found)


def _serial_value(name: str, value: str) -> int | str | bool:
    if name == "parity":
        return _PARITIES.get(value.upper(), value)
    if name in ("rs485", "echo"):
        if value.lower() not in _SWITCH:
            raise ConfigurationError(f"{name} is {_or(tuple(_SWITCH))}, not {value!r}")
        return _SWITCH[value.lower()]
    return int(value) if _is_number(value, _MOST_BAUD) else value


def _serial_query(scheme: str, settings: SerialSettings) -> str:
    """Speed and parity always, as nobody should have to know what is usual; the rest where it is unusual."""
    shown = []
    for name in _names(SerialSettings):
        value = getattr(settings, name)
        if name in ("baudrate", "parity") or value != getattr(_USUAL[scheme], name):
            shown.append(f"{name}={value:d}" if isinstance(value, int) else f"{name}={value}")
    return "&".join(shown)


def _names(kind: type[SerialSettings | TlsFiles]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


def _is_number(text: str, most: int) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= len(str(most)) and int(text) <= most


def _or(allowed: tuple[object, ...]) -> str:
    return " or ".join(map(str, allowed))


def _without_password(text: str) -> str:
    """A text fit for a message: what may be a password is not shown."""
    return re.sub(r"//([^/@:]*):[^@]*@", r"//\1:***@", text)
