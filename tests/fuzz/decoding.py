"""What both decoders keep, whatever bytes they are given; the harnesses say it in words."""

from __future__ import annotations

import json
from collections.abc import Callable

from everbus.errors import PduError
from everbus.protocol.pdu.base import NEED_MORE, UNPREDICTABLE, ExceptionResponse, Pdu

__all__ = ["check_decoder"]

_Decode = Callable[[bytes], Pdu | ExceptionResponse]
_Predict = Callable[[bytes, int, int], int]

_LOOPBACK = b"\x08\x00\x00"
"""08/00 is predicted with one word of data and may have more: spec.md 1.5."""

_IDENTIFICATION = b"\x2b\x0e"
"""Some devices count more objects than they send: spec.md 1.10."""


def check_decoder(pdu: bytes, parse: _Decode, decode: _Decode, predict: _Predict) -> None:
    """Put a decoder through one PDU of 0..253 bytes."""
    parsed, decoded = _attempt(parse, pdu), _attempt(decode, pdu)
    if isinstance(decoded, PduError):
        assert decoded.exception_code in (1, 2, 3), decoded.exception_code
    if isinstance(parsed, PduError):
        assert isinstance(decoded, PduError), decoded
        assert str(decoded) == str(parsed)
        return
    assert parsed.encode() == pdu, f"{parsed} encodes to {parsed.encode().hex()}"
    assert parse(parsed.encode()) == parsed
    assert json.loads(json.dumps(parsed.fields())) == parsed.fields()
    told = predict(pdu, 0, len(pdu))
    for end in range(len(pdu)):
        early = predict(pdu, 0, end)
        assert early in (NEED_MORE, told), f"{early} of {end} bytes, {told} of {len(pdu)}"
    if isinstance(decoded, PduError):
        return
    assert decoded == parsed
    announced_more = pdu.startswith(_IDENTIFICATION) and told == NEED_MORE
    assert told in (len(pdu), UNPREDICTABLE) or announced_more or pdu.startswith(_LOOPBACK), told


def _attempt(read: _Decode, pdu: bytes) -> Pdu | ExceptionResponse | PduError:
    try:
        return read(pdu)
    except PduError as error:
        return error
