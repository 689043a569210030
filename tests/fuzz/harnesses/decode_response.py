"""The decoder of responses, any PDU.

Invariants: any 0 to 253 bytes give a response or a PduError with exception 01, 02 or 03, nothing else. What
has a structure encodes to the very bytes it was read from, and those give an equal response again; its fields
are JSON. ``decode_response`` is ``parse_response`` and ``check``. The predicted length is the PDU's, unless only
the frame can tell it, and no prefix of the PDU predicts another.

Run it: ``python -m tests.fuzz.harnesses.decode_response [libFuzzer's arguments] corpus-folder``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from everbus.protocol.pdu.table import PUBLIC
from tests.fuzz.decoding import check_decoder
from tests.fuzz.driver import drive
from tests.fuzz.inputs import Vector, pdus


def check(data: bytes) -> None:
    """Put the decoder through one PDU."""
    check_decoder(data[:253], PUBLIC.parse_response, PUBLIC.decode_response, PUBLIC.predict_response)


def seeds(vectors: Iterable[Vector]) -> Iterator[bytes]:
    """Every response and exception, legal or not."""
    return pdus(vectors, "response")


if __name__ == "__main__":
    drive("tests.fuzz.harnesses.decode_response")
