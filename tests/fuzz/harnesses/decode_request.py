"""The decoder of requests, any PDU.

Invariants: any 0 to 253 bytes give a request or a PduError with exception 01, 02 or 03, nothing else. What
has a structure encodes to the very bytes it was read from, and those give an equal request again; its fields
are JSON. ``decode_request`` is ``parse_request`` and ``check``. The predicted length is the PDU's, unless only
the frame can tell it, and no prefix of the PDU predicts another.

Run it: ``python -m tests.fuzz.harnesses.decode_request [libFuzzer's arguments] corpus-folder``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from everbus.protocol.pdu.table import PUBLIC
from tests.fuzz.decoding import check_decoder
from tests.fuzz.driver import drive
from tests.fuzz.inputs import Vector, pdus


def check(data: bytes) -> None:
    """Put the decoder through one PDU."""
    check_decoder(data[:253], PUBLIC.parse_request, PUBLIC.decode_request, PUBLIC.predict_request)


def seeds(vectors: Iterable[Vector]) -> Iterator[bytes]:
    """Every request, legal or not."""
    return pdus(vectors, "request")


if __name__ == "__main__":
    drive("tests.fuzz.harnesses.decode_request")
