"""Clients that do not speak Modbus, or speak it badly."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import ClassVar, Final

from everbus.protocol.framing.mbap import MbapFramer
from everbus.soak.asking import read_once
from everbus.soak.scenarios.base import READ, Defaults, Scenario, chance_of
from everbus.soak.target import CycleFailedError, FailureKind, Link, Target

__all__ = ["KINDS", "Garbage"]

_PATIENCE_S: Final = 0.05
"""So long a server has to close the connection by itself, before it is asked whether it still listens."""

_BAD_LENGTHS: Final = (0, 1, 255, 65535)
_READ_PDU: Final = READ.encode()
_HTTP: Final = b"GET / HTTP/1.1\r\nHost: plc\r\nUser-Agent: Mozilla/5.0\r\nAccept: */*\r\n\r\n"
_TLS_HELLO: Final = bytes.fromhex("16 03 01 00 4a 01 00 00 46 03 03") + bytes(range(32)) + bytes(36)
_KEPT_BYTES: Final = 4096

_TOO_SHORT: Final = (b"", b"\x00", b"\xff\xff", bytes(3))
_NO_READS: Final = (bytes(4), bytes.fromhex("0000 ffff"), bytes.fromhex("ffff 0002"), bytes(252))
_NO_BODIES: Final = {
    **dict.fromkeys((0x01, 0x02, 0x03, 0x04), (*_TOO_SHORT, *_NO_READS)),
    **dict.fromkeys((0x0F, 0x10), (*_TOO_SHORT, bytes(5))),
    0x17: (*_TOO_SHORT, bytes(9)),
}
"""By function code. None is a request that writes, not even to a server that looks at little of it."""

_encode: Final = MbapFramer().encode


class Garbage(Scenario):
    """What a server must survive: wrong headers, other protocols, noise, function codes with broken bodies.

    Then a good request follows: the server must have closed the connection, or answer. Then a good
    request on a new connection, which must be answered.
    """

    name: ClassVar[str] = "garbage"
    summary: ClassVar[str] = "send what is no Modbus, or bad; then a good request there, and one on a new connection"
    criterion: ClassVar[str] = (
        "A connection that stays open and deaf (not closed, and a good request behind the garbage is not answered "
        "within the timeout) convicts, and so does a new connection that is not answered."
    )
    defaults: ClassVar[Defaults] = Defaults(cycles=1000)

    def cycle(self, target: Target, number: int) -> None:
        chance = chance_of(self.name, number)
        kind = chance.choice(list(KINDS))
        with target.connect() as link:
            try:
                _offend(target, link, KINDS[kind](chance, target.unit), number & 0xFFFF)
            except TimeoutError as error:
                message = f"after {kind} it stays open and answers nothing for {target.timeout_s:g} s"
                raise CycleFailedError(FailureKind.DEAF, message) from error
            except OSError:
                pass  # closed with a reset, as it may
        try:
            read_once(target)
        except CycleFailedError as error:
            error.connected = True  # it was there before the garbage
            raise


def _offend(target: Target, link: Link, garbage: bytes, good_id: int) -> None:
    """Return once the server has closed the connection or answered the good request behind the garbage."""
    deadline = time.monotonic() + target.timeout_s
    link.send(garbage, deadline)
    received = b""
    wanted = good_id.to_bytes(2) + bytes(2)
    asked = False
    while wanted not in received or not asked:
        if not asked and not link.readable(time.monotonic() + _PATIENCE_S):
            link.send(_encode(target.unit, _READ_PDU, good_id), deadline)
            asked = True
        data = link.receive(deadline)
        if not data:
            return
        received = (received + data)[-_KEPT_BYTES:]


def _wrong_protocol(chance: random.Random, unit: int) -> bytes:
    frame = _encode(unit, _READ_PDU, chance.randrange(0x10000))
    return frame[:2] + chance.randint(1, 0xFFFF).to_bytes(2) + frame[4:]


def _wrong_length(chance: random.Random, unit: int) -> bytes:
    frame = _encode(unit, _READ_PDU, chance.randrange(0x10000))
    return frame[:4] + chance.choice(_BAD_LENGTHS).to_bytes(2) + frame[6:]


def _noise(chance: random.Random, _: int) -> bytes:
    data = bytearray(chance.randbytes(chance.randint(8, 600)))
    data[2] |= 1  # never by chance a header that only wants the rest of its frame
    return bytes(data)


def _good_then_noise(chance: random.Random, unit: int) -> bytes:
    return _encode(unit, _READ_PDU, chance.randrange(0x10000)) + _noise(chance, unit)


def _broken_body(chance: random.Random, unit: int) -> bytes:
    code = chance.randrange(256)
    body = chance.choice(_NO_BODIES.get(code, _TOO_SHORT))
    return _encode(unit, bytes([code]) + body, chance.randrange(0x10000))


KINDS: Final[dict[str, Callable[[random.Random, int], bytes]]] = {
    "a wrong protocol id": _wrong_protocol,
    "a wrong length": _wrong_length,
    "an HTTP request": lambda *_: _HTTP,
    "a TLS hello": lambda *_: _TLS_HELLO,
    "zeros": lambda chance, _: bytes(chance.randint(8, 600)),
    "noise": _noise,
    "a good request and noise": _good_then_noise,
    "a function code with a broken body": _broken_body,
}
"""What is sent, by its name; each is made by chance for a unit."""
