"""The client's session: answers of any kind to requests of every kind.

The input: a byte whose value modulo 16 says how many requests are made; a byte for each: which one, in the low
five bits, bit 5 for unit 17 instead of 1, the high bit if it is given up at once. Then a stream as ``inputs``
has it, the answers. Transactions count from 1.

Invariants: any bytes give completions or, once, a framing error, and nothing else. A completion belongs to a
request that waits, and ends it: none ends twice, none that was given up. A response is of the request's kind,
fits it, came from its unit and under its transaction, and encodes to the bytes that came; an exception is of
its function; anything else fails the request with a MismatchError or a PduError. Every frame is counted once.
Whole, split and byte by byte the completions are the same.

Run it: ``python -m tests.fuzz.harnesses.client_session [libFuzzer's arguments] corpus-folder``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from everbus.errors import ExceptionResponseError, MismatchError, PduError
from everbus.protocol.client_session import ClientSession, Completion
from everbus.protocol.codes import EXCEPTION_BIT
from everbus.protocol.framing.base import Frame
from everbus.protocol.framing.mbap import MbapFramer
from everbus.protocol.pdu.table import PUBLIC, AnyRequest
from tests.fuzz.driver import drive
from tests.fuzz.inputs import Piece, Vector, bytewise, cut, pairs, stream_input, whole

GIVEN_UP = 0x80
OTHER_UNIT = 0x20
UNITS = (1, 17)

REQUESTS = [
    PUBLIC.decode_request(bytes.fromhex(pdu))
    for pdu in (
        *("0100130012", "0200130012", "0300080001", "03006B0003", "0400080002", "050008FF00", "060000AAAA", "07"),
        *("080000A537", "0800020000", "08000B0000", "0B", "0C", "0F0013000A02CD01", "100001000204000A0102", "11"),
        *("140706000100020003", "140E0600040001000206000300090002", "150D0600040007000306AF04BE100D", "1804DE"),
        *("16000400F20025", "170000000500080001025555", "1700030006000E00030600FF00FF00FF", "2B0E0100", "2B0E0102"),
        *("2B0E0400", "2B0D001F10050000000008"),
    )
]


def check(data: bytes) -> None:
    """Let a client read one stream of answers."""
    count = data[0] % 16 if data else 0
    asked = data[1 : 1 + count]
    pieces = cut(data[1 + count :])
    seen = _receive(asked, pieces)
    for way in (whole, bytewise):
        assert _receive(asked, way(pieces)) == seen, way.__name__


def seeds(vectors: Iterable[Vector]) -> Iterator[bytes]:
    """Every pair that a request of ours begins: alone, behind a late answer, and from another unit."""
    known = {request.encode(): number for number, request in enumerate(REQUESTS)}
    build = MbapFramer().encode
    for request, response in pairs(vectors):
        if request in known:
            number = known[request]
            yield bytes((1, number)) + stream_input(build(1, response, 1), (8,))
            answers = build(1, response, 1) + build(17, response, 2) + build(1, response, 2)
            yield bytes((2, number | GIVEN_UP, number | OTHER_UNIT)) + stream_input(answers)


def _receive(asked: bytes, pieces: Iterable[Piece]) -> list[object]:
    """Make the requests, read the answers; what came of it, checked against a reading of our own."""
    session = ClientSession()
    waiting: dict[int, tuple[int, AnyRequest]] = {}
    for number in asked:
        unit, request = UNITS[bool(number & OTHER_UNIT)], REQUESTS[(number & 0x1F) % len(REQUESTS)]
        transaction, _ = session.submit(unit, request)
        if number & GIVEN_UP:
            session.abandon(transaction)
        else:
            waiting[transaction] = unit, request
    reader = MbapFramer()
    seen: list[object] = []
    for piece in pieces:
        completions = session.receive(piece.data)
        frames = [(frame, waiting.pop(frame.transaction, None)) for frame in reader.feed(piece.data)]
        answers = [(frame, *owner) for frame, owner in frames if owner]
        for completion, (frame, unit, request) in zip(completions, answers, strict=True):
            _check_completion(completion, frame, unit, request)
            seen.append((completion.transaction, completion.response, repr(completion.error)))
        assert session.in_flight == len(waiting)
    counts = session.statistics()
    assert counts.submitted == len(asked)
    assert counts.completed + counts.mismatched + counts.late + counts.unknown == reader.statistics().frames
    assert counts.completed + counts.mismatched == len(seen)
    return [*seen, counts, session.fault and session.fault.reason, session.partial]


def _check_completion(completion: Completion, frame: Frame, unit: int, request: AnyRequest) -> None:
    assert completion.transaction == frame.transaction
    response, error = completion.response, completion.error
    if response is not None:
        assert error is None
        assert isinstance(response, request.response_type)
        response.check()
        assert request.mismatch(response) is None
        assert (frame.unit, frame.pdu) == (unit, response.encode())
    elif isinstance(error, ExceptionResponseError):
        assert frame.unit == unit
        assert frame.pdu[:2] == bytes((request.function_code | EXCEPTION_BIT, error.code))
    else:
        assert type(error) in (MismatchError, PduError), error


if __name__ == "__main__":
    drive("tests.fuzz.harnesses.client_session")
