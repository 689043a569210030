"""A client's session against a model: an answer is never given to another request (spec.md 4.4).

Requests are made, given up and answered in any order; answers come late, twice, from strangers, damaged, and in
any pieces. Each request asks for something that only it asks for.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from struct import pack

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from everbus.errors import ExceptionResponseError, InvalidRequestError, MismatchError, PduError
from everbus.protocol.client_session import ClientSession, Completion
from everbus.protocol.framing.base import Frame
from everbus.protocol.framing.mbap import MbapFramer
from everbus.protocol.pdu.files import ReadFifoQueueRequest
from everbus.protocol.pdu.registers import ReadHoldingRegistersRequest
from everbus.protocol.pdu.table import PUBLIC
from tests.fuzz.budget import budget

KINDS = ("registers", "coils", "register", "mask", "read_write", "queue")


def exchange(kind: str, number: int) -> tuple[bytes, bytes]:
    """The request with this number, and its answer, which says the number too."""
    word = number.to_bytes(2, "big")
    return {
        "registers": (pack(">BHH", 3, number, 1), b"\x03\x02" + word),
        "coils": (pack(">BHH", 1, number, 16), b"\x01\x02" + word),
        "register": (b"\x06\x00\x01" + word, b"\x06\x00\x01" + word),
        "mask": (b"\x16\x00\x01" + word + b"\x00\x00", b"\x16\x00\x01" + word + b"\x00\x00"),
        "read_write": (pack(">BHHHHB", 23, 0, 1, 0, 1, 2) + word, b"\x17\x02" + word),
        "queue": (b"\x18" + word, b"\x18\x00\x04\x00\x01" + word),
    }[kind]


@dataclass(frozen=True)
class Asked:
    """A request that was made."""

    transaction: int
    unit: int
    request: bytes
    answer: bytes


picks = st.integers(0, 1000)
units = st.sampled_from([0, 1, 17, 255])


class Client(RuleBasedStateMachine):
    """One session; what a peer has sent waits in ``wire`` until some of it is delivered."""

    @initialize(first=st.sampled_from([0, 1, 0xFFF0, 0xFFFF]))
    def build(self, first: int) -> None:
        self.session = ClientSession(first_transaction=first)
        self.encode = MbapFramer().encode
        self.next = first
        self.made: list[Asked] = []
        self.waiting: dict[int, Asked] = {}
        self.given_up: set[int] = set()
        self.wire = b""
        self.frames: deque[tuple[int, Frame]] = deque()
        self.sent = self.delivered = 0
        self.broken_at: int | None = None
        self.counts = dict.fromkeys(("submitted", "completed", "late", "unknown", "mismatched"), 0)

    # What the program does

    @rule(kind=st.sampled_from(KINDS), unit=units)
    def submit(self, kind: str, unit: int) -> None:
        request, answer = exchange(kind, len(self.made))
        transaction, wire = self.session.submit(unit, PUBLIC.decode_request(request))
        assert transaction == self.next
        self.next = (transaction + 1) % 0x10000
        assert wire == self.encode(unit, request, transaction)
        asked = Asked(transaction, unit, request, answer)
        self.made.append(asked)
        self.waiting[transaction] = asked
        self.counts["submitted"] += 1

    @rule(quantity=st.sampled_from([0, 126, 0x10000]))
    def submit_what_is_illegal(self, quantity: int) -> None:
        with pytest.raises(InvalidRequestError):
            self.session.submit(1, ReadHoldingRegistersRequest(0, quantity))
        with pytest.raises(InvalidRequestError):
            self.session.submit(1, ReadFifoQueueRequest(-1))

    @precondition(lambda self: self.waiting)
    @rule(pick=picks)
    def give_up(self, pick: int) -> None:
        transaction = sorted(self.waiting)[pick % len(self.waiting)]
        self.session.abandon(transaction)
        del self.waiting[transaction]
        self.given_up.add(transaction)

    @rule(transaction=st.integers(0, 0xFFFF))
    def give_up_what_was_not_asked(self, transaction: int) -> None:
        if transaction not in self.waiting:
            self.session.abandon(transaction)

    # What the peer does

    @precondition(lambda self: self.made)
    @rule(pick=picks)
    def answer(self, pick: int) -> None:
        """Perhaps for the second time, or too late."""
        asked = self.made[pick % len(self.made)]
        self._send(asked.transaction, asked.unit, asked.answer)

    @precondition(lambda self: self.made)
    @rule(pick=picks, other=picks)
    def answer_with_what_belongs_to_another(self, pick: int, other: int) -> None:
        asked, another = self.made[pick % len(self.made)], self.made[other % len(self.made)]
        self._send(asked.transaction, asked.unit, another.answer)

    @precondition(lambda self: self.made)
    @rule(pick=picks, unit=units)
    def answer_from_a_unit(self, pick: int, unit: int) -> None:
        asked = self.made[pick % len(self.made)]
        self._send(asked.transaction, unit, asked.answer)

    @precondition(lambda self: self.made)
    @rule(pick=picks, code=st.integers(1, 255), function=st.sampled_from([0, 0, 0, 1]))
    def refuse(self, pick: int, code: int, function: int) -> None:
        asked = self.made[pick % len(self.made)]
        self._send(asked.transaction, asked.unit, bytes((asked.request[0] ^ function | 0x80, code)))

    @rule(transaction=st.integers(0, 0xFFFF), pdu=st.binary(min_size=1, max_size=12))
    def send_anything(self, transaction: int, pdu: bytes) -> None:
        self._send(transaction, 1, pdu)

    @precondition(lambda self: self.made)
    @rule(pick=picks, at=picks, by=st.integers(1, 255))
    def answer_damaged(self, pick: int, at: int, by: int) -> None:
        asked = self.made[pick % len(self.made)]
        pdu = bytearray(asked.answer)
        pdu[at % len(pdu)] ^= by
        self._send(asked.transaction, asked.unit, bytes(pdu))

    @precondition(lambda self: self.broken_at is None and len(self.made) > 3)
    @rule(header=st.sampled_from(["000100010006", "000100000001", "0001000000FF"]))
    def leave_the_protocol(self, header: str) -> None:
        self.broken_at = self.sent + 6
        self._put(bytes.fromhex(header))

    def _send(self, transaction: int, unit: int, pdu: bytes) -> None:
        self._put(self.encode(unit, pdu, transaction))
        self.frames.append((self.sent, Frame(unit, pdu, transaction)))

    def _put(self, data: bytes) -> None:
        self.wire += data
        self.sent += len(data)

    # What the network does

    @precondition(lambda self: self.wire)
    @rule(count=st.integers(1, 40) | st.just(10_000))
    def deliver(self, count: int) -> None:
        data, self.wire = self.wire[:count], self.wire[count:]
        self.delivered += len(data)
        completions = self.session.receive(memoryview(data))
        expected = []
        while self.frames and self.frames[0][0] <= self.delivered:
            end, frame = self.frames.popleft()
            if self.broken_at is not None and end > self.broken_at:
                continue
            asked = self._owner(frame)
            if asked is not None:
                expected.append((frame, asked))
        for completion, (frame, asked) in zip(completions, expected, strict=True):
            self._check(completion, frame, asked)

    def _owner(self, frame: Frame) -> Asked | None:
        """Whose answer a frame is, or claims to be; that request waits no longer."""
        asked = self.waiting.pop(frame.transaction, None)
        if asked is None:
            self.counts["late" if frame.transaction in self.given_up else "unknown"] += 1
        return asked

    def _check(self, completion: Completion, frame: Frame, asked: Asked) -> None:
        assert completion.transaction == asked.transaction
        ours = frame.unit == asked.unit
        if ours and frame.pdu == asked.answer:
            assert completion.error is None
        elif ours and len(frame.pdu) == 2 and frame.pdu[0] == asked.request[0] | 0x80:
            assert isinstance(completion.error, ExceptionResponseError)
            assert completion.error.code == frame.pdu[1]
        if completion.response is not None:
            assert ours
            assert completion.error is None
            assert completion.response.encode() == frame.pdu
            assert frame.pdu[0] == asked.request[0]
            assert len(frame.pdu) == len(asked.answer)
            if frame.pdu[0] in (6, 22):  # an echo tells whose it is
                assert frame.pdu == asked.answer
        refused = completion.response is None and not isinstance(completion.error, ExceptionResponseError)
        assert not refused or isinstance(completion.error, (MismatchError, PduError))
        self.counts["mismatched" if refused else "completed"] += 1

    @invariant()
    def the_session_equals_the_model(self) -> None:
        counts = self.session.statistics()
        assert {name: getattr(counts, name) for name in self.counts} == self.counts
        assert self.session.in_flight == len(self.waiting)
        broken = self.broken_at is not None and self.delivered >= self.broken_at
        assert (self.session.fault is not None) == broken
        begun = self.frames[0][0] - len(self.encode(*self.frames[0][1])) if self.frames else self.delivered
        torn = self.broken_at is not None and self.broken_at - 6 < self.delivered < self.broken_at
        assert self.session.partial == (not broken and (begun < self.delivered or torn))


def test_an_answer_is_never_given_to_another_request() -> None:
    run_state_machine_as_test(Client, settings=budget(60, 40))
