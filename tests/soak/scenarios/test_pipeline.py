"""Many requests at once, against servers that lose, mix up or repeat answers."""

from __future__ import annotations

import random

import pytest

from everbus.protocol.framing.mbap import MbapFramer
from everbus.protocol.pdu.bits import ReadCoilsRequest
from everbus.protocol.pdu.registers import ReadHoldingRegistersRequest
from everbus.protocol.pdu.table import AnyRequest
from everbus.soak.scenarios import pipeline
from everbus.soak.scenarios.pipeline import Pipeline
from everbus.soak.target import CycleFailedError, FailureKind
from everbus.soak.verdicts import Verdict
from tests.soak.faulty import AnswersTwice, FirstOfSegment, Right, SwapsIds
from tests.soak.judged import EVERBUS, brief, verdicts
from tests.soak.scripted import Scripted

ASKED: dict[int, AnyRequest] = {5: ReadHoldingRegistersRequest(0, 2), 9: ReadCoilsRequest(0, 20)}
FIVE = bytes.fromhex("0005 0000 0007 01 03 04 00000000")
NINE = bytes.fromhex("0009 0000 0006 01 01 03 000000")
NINE_REFUSED = bytes.fromhex("0009 0000 0003 01 81 02")


@pytest.mark.parametrize("depth", [1, 16])
def test_a_round_is_reads_of_all_four_kinds_and_of_lengths_of_their_own(depth: int) -> None:
    codes = set()
    for number in range(50):
        asked = pipeline._requests(random.Random(number), depth)
        assert len(asked) == depth
        for request in asked.values():
            request.check()
            codes.add(int(request.function_code))
        assert len({answer_bytes(request) for request in asked.values()}) == depth
    assert codes == {1, 2, 3, 4}


def answer_bytes(request: AnyRequest) -> int:
    quantity = int.from_bytes(request.encode()[3:5])
    return (quantity + 7) // 8 if request.function_code <= 2 else 2 * quantity


def test_some_rounds_are_one_segment_and_some_are_cut() -> None:
    data = bytes(range(192))
    pieces = [pipeline._cut(data, random.Random(number)) for number in range(50)]
    assert all(b"".join(found) == data for found in pieces)
    assert all(piece for found in pieces for piece in found)
    assert {len(found) for found in pieces} == {1, 2, 3, 4, 5, 6}


@pytest.mark.parametrize("sent", [FIVE + NINE, NINE + FIVE, NINE_REFUSED + FIVE])
def test_each_answered_once_in_whatever_order(sent: bytes) -> None:
    made(sent)


@pytest.mark.parametrize(
    ("sent", "kind", "words"),
    [
        (FIVE, FailureKind.MISSING, "1 of 2 answers are missing, and nothing comes any more"),
        (FIVE + NINE[:-1], FailureKind.MISSING, "1 of 2 answers are missing"),
        (FIVE + FIVE, FailureKind.FOREIGN, "under id 0005, which was not asked or was answered before"),
        (b"\x00\x07" + FIVE[2:], FailureKind.FOREIGN, "under id 0007"),
        (b"\x00\x09" + FIVE[2:] + b"\x00\x05" + NINE[2:], FailureKind.BAD_ANSWER, "id 0009: function 03 answers 01"),
        (FIVE[:6] + b"\x02" + FIVE[7:], FailureKind.BAD_ANSWER, "id 0005: unit 2 answers a request to unit 1"),
        (bytes.fromhex("0005 0000 0005 01 03 02 0000"), FailureKind.BAD_ANSWER, "id 0005"),
        (b"HTTP/1.1 400", FailureKind.BAD_ANSWER, "HTTP"),
    ],
    ids=["one missing", "half of one missing", "one twice", "an id of nobody", "swapped", "unit", "count", "no Modbus"],
)
def test_what_is_not_right(sent: bytes, kind: FailureKind, words: str) -> None:
    with pytest.raises(CycleFailedError) as caught:
        made(sent)
    assert caught.value.kind is kind
    assert words in str(caught.value) or kind is FailureKind.BAD_ANSWER


def test_a_connection_that_closes_before_the_last_answer() -> None:
    with pytest.raises(CycleFailedError, match="1 of 2 answers are missing, and the connection was closed") as caught:
        made(FIVE, closes=True)
    assert caught.value.kind is FailureKind.MISSING


def made(sent: bytes, closes: bool = False) -> None:
    """One round of these requests against a server that answers with these bytes."""
    with Scripted(sent, closes=closes) as target, target.connect() as link:
        short = type(target)(target.family, target.address, timeout_s=0.15)
        pipeline._round(short, link, MbapFramer(), dict(ASKED), random.Random(2))  # in one segment


def test_a_cycle_has_three_rounds_on_one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    depths: list[int] = []
    monkeypatch.setattr(pipeline, "_round", lambda target, link, framer, asked, chance: depths.append(len(asked)))
    with Scripted() as target:
        Pipeline().cycle(target, 1)
    assert depths == [16, 1, 16]


@pytest.mark.slow
def test_both_ways() -> None:
    options = brief("pipeline", duration_s=2.0, timeout_s=0.5)
    found = verdicts(options, FirstOfSegment, SwapsIds, AnswersTwice, Right, EVERBUS)
    for kind, words in ((FirstOfSegment, "missing answer"), (SwapsIds, "bad answer"), (AnswersTwice, "foreign answer")):
        assert found[kind].verdict is Verdict.FAILING
        (finding,) = found[kind].findings
        assert words in finding
    for acquitted in (Right, EVERBUS):
        assert (found[acquitted].verdict, found[acquitted].findings) == (Verdict.CLEAN, ()), found[acquitted].reason
        assert found[acquitted].cycles > 10
