from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from everbus.errors import ServerStateError
from everbus.protocol.framing.base import Frame
from everbus.protocol.framing.mbap import MbapFramer
from everbus.protocol.server_session import ServerSession

READ = bytes.fromhex("0300000001")
ANSWER = bytes.fromhex("0302002A")


def adu(transaction: int, unit: int = 1, pdu: bytes = READ) -> bytes:
    return MbapFramer().encode(unit, pdu, transaction)


def session(max_in_flight: int = 16) -> ServerSession:
    return ServerSession(MbapFramer(), max_in_flight)


def test_a_read_gives_out_its_requests_in_order() -> None:
    frames = session().receive(adu(7) + adu(5, unit=0) + adu(6, unit=255))
    assert frames == [Frame(1, READ, 7), Frame(0, READ, 5), Frame(255, READ, 6)]


def test_none_of_the_requests_of_one_segment_is_lost() -> None:
    # V22
    server = session()
    for count in range(1, 65):
        frames = server.receive(b"".join(adu(1000 + number, unit=number) for number in range(count)))
        answers = b"".join(server.reply(frame.unit, ANSWER, frame.transaction) for frame in frames)
        assert answers == b"".join(adu(1000 + number, number, ANSWER) for number in range(count))


def test_a_partial_frame_is_known_until_its_last_byte_is_there() -> None:
    server = session()
    seen = [(server.receive(piece), server.partial) for piece in (b"", adu(1)[:1], adu(1)[1:5], adu(1)[5:])]
    assert seen == [([], False), ([], True), ([], True), ([Frame(1, READ, 1)], False)]


def test_a_fault_comes_after_the_requests_before_it() -> None:
    server = session()
    seen = [(server.receive(data), server.fault is None) for data in (adu(1), adu(2) + b"GET / HTTP/1.1\r\n")]
    assert seen == [([Frame(1, READ, 1)], True), ([Frame(1, READ, 2)], False)]
    assert server.fault is not None
    assert server.fault.reason == "protocol_id"
    assert server.receive(adu(3)) == []


@pytest.mark.requirement("TG-3.1.3-transaction", "TG-3.1.3-unit", "TG-4.4.2.3-response")
def test_a_reply_carries_its_unit_and_its_transaction() -> None:
    assert session().reply(17, ANSWER, 0xABCD) == bytes.fromhex("ABCD00000005110302002A")


def test_a_deferred_request_is_in_flight_until_it_is_finished() -> None:
    server = session()
    token = server.defer(Frame(9, READ, 3))
    assert (server.in_flight, server.busy) == (1, True)
    assert server.finish(token, ANSWER) == adu(3, 9, ANSWER)
    assert (server.in_flight, server.busy) == (0, False)


@pytest.mark.requirement("TG-4.4.2.1-context")
def test_answers_may_leave_in_any_order() -> None:
    server = session()
    first, second = server.defer(Frame(1, READ, 10)), server.defer(Frame(2, READ, 11))
    assert server.finish(second, ANSWER) == adu(11, 2, ANSWER)
    assert server.finish(first, ANSWER) == adu(10, 1, ANSWER)


def test_a_request_may_end_without_an_answer() -> None:
    server = session()
    assert server.finish(server.defer(Frame(1, READ, 1)), None) == b""
    assert not server.busy


def test_a_token_is_finished_once() -> None:
    server = session()
    token = server.defer(Frame(1, READ, 1))
    server.finish(token, None)
    with pytest.raises(ServerStateError, match=f"request {token} is not in flight"):
        server.finish(token, ANSWER)


def test_a_token_that_was_never_given_out_is_refused() -> None:
    with pytest.raises(ServerStateError, match="request 99 is not in flight"):
        session().finish(99, ANSWER)


@pytest.mark.requirement("TG-4.4.2.1-slots")
def test_no_more_requests_wait_than_the_cap_allows() -> None:
    server = session(max_in_flight=2)
    tokens = []
    for number, full in [(1, False), (2, True)]:
        tokens.append(server.defer(Frame(1, READ, number)))
        assert server.full == full
    with pytest.raises(ServerStateError, match="2 requests wait already"):
        server.defer(Frame(1, READ, 3))
    server.finish(tokens[0], ANSWER)
    assert (server.in_flight, server.full) == (1, False)
    server.defer(Frame(1, READ, 3))
    assert (server.in_flight, server.full) == (2, True)


@pytest.mark.requirement("TG-4.4.2.1-slots")
def test_by_default_sixteen_requests_wait_at_once() -> None:
    server = ServerSession(MbapFramer())
    for number in range(16):
        assert not server.full
        server.defer(Frame(1, READ, number))
    assert server.full


def test_held_requests_come_back_once_and_in_order() -> None:
    server = session()
    server.hold([Frame(1, READ, 1), Frame(1, READ, 2)])
    server.hold([Frame(1, READ, 3)])
    assert server.busy
    assert [frame.transaction for frame in server.release()] == [1, 2, 3]
    assert server.release() == []
    assert not server.busy


def test_holding_does_not_keep_the_list_that_it_was_given() -> None:
    server = session()
    frames = [Frame(1, READ, 1)]
    server.hold(frames)
    frames.clear()
    assert len(server.release()) == 1


class Conversation(RuleBasedStateMachine):
    """A host that defers, holds, releases and finishes as it likes; nothing is lost or answered twice."""

    tokens: Bundle[int] = Bundle("tokens")
    spent: Bundle[int] = Bundle("spent")

    def __init__(self) -> None:
        super().__init__()
        self.session = session(max_in_flight=3)
        self.received = 0
        self.waiting: list[Frame] = []
        self.held: list[Frame] = []
        self.in_flight: dict[int, Frame] = {}
        self.answered: list[int] = []

    @rule(count=st.integers(1, 5))
    def receive(self, count: int) -> None:
        data = b"".join(adu(self.received + number) for number in range(count))
        self.received += count
        self.waiting += self.session.receive(data)

    @rule()
    def answer_at_once(self) -> None:
        if self.waiting:
            frame = self.waiting.pop(0)
            assert self.session.reply(frame.unit, ANSWER, frame.transaction) == adu(frame.transaction, 1, ANSWER)
            self.answered.append(frame.transaction)

    @rule(target=tokens)
    def defer(self) -> int:
        if not self.waiting:
            return 0
        if self.session.full:
            with pytest.raises(ServerStateError):
                self.session.defer(self.waiting[0])
            return 0
        frame = self.waiting.pop(0)
        token = self.session.defer(frame)
        assert token not in self.in_flight
        self.in_flight[token] = frame
        return token

    @rule()
    def hold(self) -> None:
        self.session.hold(self.waiting)
        self.held += self.waiting
        self.waiting = []

    @rule()
    def release(self) -> None:
        released = self.session.release()
        assert released == self.held
        self.waiting, self.held = released + self.waiting, []

    @rule(target=spent, token=consumes(tokens), silent=st.booleans())
    def finish(self, token: int, silent: bool) -> int:
        frame = self.in_flight.pop(token, None)
        if frame is None:
            with pytest.raises(ServerStateError):
                self.session.finish(token, ANSWER)
        else:
            reply = self.session.finish(token, None if silent else ANSWER)
            assert reply == (b"" if silent else adu(frame.transaction, 1, ANSWER))
            self.answered.append(frame.transaction)
        return token

    @rule(token=spent)
    def finish_again(self, token: int) -> None:
        with pytest.raises(ServerStateError):
            self.session.finish(token, ANSWER)

    @invariant()
    def the_cap_holds(self) -> None:
        assert self.session.in_flight == len(self.in_flight) <= 3
        assert self.session.full == (len(self.in_flight) == 3)
        assert self.session.busy == bool(self.in_flight or self.held)

    @invariant()
    def nothing_is_lost_and_nothing_answered_twice(self) -> None:
        known = [frame.transaction for frame in [*self.waiting, *self.held, *self.in_flight.values()]]
        assert sorted(known + self.answered) == list(range(self.received))


Conversation.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestConversation = Conversation.TestCase
