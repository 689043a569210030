from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from everbus.errors import (
    ConfigurationError,
    ExceptionResponseError,
    InvalidRequestError,
    MismatchError,
    PduError,
    UsageError,
)
from everbus.protocol.client_session import ClientSession, Completion, SessionStatistics, match_response
from everbus.protocol.framing.mbap import MbapFramer
from everbus.protocol.framing.rtu import RtuFramer
from everbus.protocol.pdu.bits import ReadCoilsRequest, ReadDiscreteInputsRequest
from everbus.protocol.pdu.encapsulated import ReadDeviceIdentificationRequest
from everbus.protocol.pdu.files import FileGroup, ReadFifoQueueRequest, ReadFileRecordRequest
from everbus.protocol.pdu.registers import (
    MaskWriteRegisterRequest,
    ReadHoldingRegistersRequest,
    ReadHoldingRegistersResponse,
    ReadInputRegistersRequest,
    WriteSingleRegisterRequest,
)
from everbus.protocol.pdu.table import AnyRequest, FunctionTable

READ = ReadHoldingRegistersRequest(0, 1)
ANSWER = bytes.fromhex("0302002A")
RESPONSE = ReadHoldingRegistersResponse(b"\x00\x2a")


def adu(transaction: int, pdu: bytes = ANSWER, unit: int = 1) -> bytes:
    return MbapFramer().encode(unit, pdu, transaction)


def answer_to(session: ClientSession, request: AnyRequest, pdu: bytes) -> Completion:
    """Make one request and give one answer to it."""
    transaction, _ = session.submit(1, request)
    (completion,) = session.receive(adu(transaction, pdu))
    assert completion.transaction == transaction
    return completion


# --- requests ---------------------------------------------------------------------------------


@pytest.mark.requirement("TG-4.4.1.2-transaction")
def test_a_request_goes_out_whole_with_an_id_of_its_own() -> None:
    session = ClientSession()
    assert session.submit(17, ReadHoldingRegistersRequest(0x6B, 3)) == (
        1,
        bytes.fromhex("000100000006110300 6B0003"),
    )
    assert session.submit(17, READ)[0] == 2
    assert session.in_flight == 2


@pytest.mark.parametrize(("first", "second"), [(0, 1), (65535, 0), (65536 + 7, 8)])
def test_ids_start_where_told_and_wrap_at_65536(first: int, second: int) -> None:
    session = ClientSession(first_transaction=first)
    assert session.submit(1, READ)[0] == first % 65536
    assert session.submit(1, READ)[0] == second


def test_an_illegal_request_is_not_sent() -> None:
    session = ClientSession()
    with pytest.raises(InvalidRequestError, match=r"quantity 126 is outside 1\.\.125; it was not sent"):
        session.submit(1, ReadHoldingRegistersRequest(0, 126))
    assert session.in_flight == 0
    assert session.statistics() == SessionStatistics()


@pytest.mark.parametrize(
    "request_",
    [
        ReadHoldingRegistersRequest(-1, 1),
        WriteSingleRegisterRequest(0, 65536),
        WriteSingleRegisterRequest(65536, 0),
        WriteSingleRegisterRequest(0, -1),
        MaskWriteRegisterRequest(0, 65536, 0),
        ReadFifoQueueRequest(65536),
        ReadFifoQueueRequest(-1),
        ReadFileRecordRequest([FileGroup(65536, 0, 1)]),
        ReadFileRecordRequest([FileGroup(1, -1, 1)]),
        ReadDeviceIdentificationRequest(1, 256),
    ],
    ids=repr,
)
def test_a_value_that_its_field_cannot_hold_is_not_sent(request_: AnyRequest) -> None:
    session = ClientSession()
    with pytest.raises(InvalidRequestError):
        session.submit(1, request_)
    assert session.in_flight == 0
    assert session.statistics() == SessionStatistics()
    assert session.submit(1, READ)[0] == 1


@pytest.mark.parametrize("unit", [-1, 256])
def test_a_request_to_no_unit_is_not_sent(unit: int) -> None:
    session = ClientSession()
    with pytest.raises(UsageError, match=f"unit {unit}"):
        session.submit(unit, READ)
    assert session.in_flight == 0
    assert session.statistics() == SessionStatistics()


# --- ids --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.requirement("TG-4.4.1.2-transaction")
def test_an_id_is_not_used_again_while_its_request_is_open() -> None:
    session = ClientSession(first_transaction=10)
    session.submit(1, READ)
    for expected in [*range(11, 65536), *range(10)]:
        transaction, _ = session.submit(1, READ)
        assert transaction == expected
        session.receive(adu(transaction))
    assert session.submit(1, READ)[0] == 11


def test_an_id_is_not_used_again_while_its_late_answer_may_come() -> None:
    session = ClientSession(first_transaction=10)
    session.abandon(session.submit(1, READ)[0])
    for _ in range(65535):
        transaction, _ = session.submit(1, READ)
        assert transaction != 10
        session.receive(adu(transaction))
    assert session.submit(1, READ)[0] == 11


def test_the_last_1024_abandoned_ids_are_remembered() -> None:
    session = ClientSession(first_transaction=0)
    for expected in range(1025):
        transaction, _ = session.submit(1, READ)
        assert transaction == expected
        session.abandon(transaction)
    session.receive(adu(0) + adu(1) + adu(1024))
    assert (session.statistics().unknown, session.statistics().late) == (1, 2)


@pytest.mark.requirement("TG-4.4.1.1-transactions")
def test_no_request_is_sent_when_every_id_is_in_use() -> None:
    session = ClientSession()
    assert {session.submit(1, READ)[0] for _ in range(65536)} == set(range(65536))
    with pytest.raises(UsageError, match="every transaction id is in use"):
        session.submit(1, READ)
    session.receive(adu(1234))
    assert session.submit(1, READ)[0] == 1234


# --- answers ----------------------------------------------------------------------------------


def test_an_answer_completes_its_request() -> None:
    session = ClientSession()
    assert answer_to(session, READ, ANSWER) == Completion(1, RESPONSE, None)
    assert session.in_flight == 0
    assert session.statistics() == SessionStatistics(submitted=1, completed=1)


@pytest.mark.requirement("TG-4.4.1.3-match")
def test_answers_come_in_any_order_and_in_pieces() -> None:
    session = ClientSession()
    for _ in range(3):
        session.submit(1, READ)
    data = adu(3) + adu(1) + adu(2)
    completions = [completion for at in range(len(data)) for completion in session.receive(data[at : at + 1])]
    assert [completion.transaction for completion in completions] == [3, 1, 2]


def test_several_answers_of_one_read_are_given_in_their_order() -> None:
    session = ClientSession()
    for _ in range(3):
        session.submit(1, READ)
    completions = session.receive(adu(2) + adu(99) + adu(3) + adu(1))
    assert [completion.transaction for completion in completions] == [2, 3, 1]


def test_an_unfinished_answer_is_partial() -> None:
    session = ClientSession()
    session.submit(1, READ)
    seen = [(len(session.receive(piece)), session.partial) for piece in (b"", adu(1)[:1], adu(1)[1:4], adu(1)[4:])]
    assert seen == [(0, False), (0, True), (0, True), (1, False)]


@pytest.mark.requirement("TG-4.4.1.3-exception")
def test_an_exception_response_is_a_completed_request() -> None:
    session = ClientSession()
    completion = answer_to(session, READ, bytes.fromhex("8306"))
    assert completion.response is None
    assert isinstance(completion.error, ExceptionResponseError)
    assert (completion.error.code, completion.error.function_code) == (6, 3)
    assert session.statistics() == SessionStatistics(submitted=1, completed=1)


@pytest.mark.parametrize(
    ("pdu", "kind"),
    [
        ("0303002A00", PduError),  # an odd byte count
        ("0302002A00", PduError),  # bytes behind
        ("0402002A", MismatchError),  # another function
        ("8402", MismatchError),  # another function's exception
        ("0304002A002A", MismatchError),  # more than asked for
        ("41", PduError),  # a function that nobody knows
        ("830200", PduError),  # an exception that is too long
    ],
)
@pytest.mark.requirement("TG-4.4.1.3-mismatch")
def test_an_answer_that_does_not_fit_fails_its_request_and_no_other(
    pdu: str, kind: type[PduError | MismatchError]
) -> None:
    session = ClientSession()
    session.submit(1, READ)
    completion = answer_to(session, READ, bytes.fromhex(pdu))
    assert completion.response is None
    assert type(completion.error) is kind
    assert session.in_flight == 1
    assert session.statistics() == SessionStatistics(submitted=2, mismatched=1)


@pytest.mark.requirement("TG-4.4.1.3-unit")
def test_an_answer_from_another_unit_fails_its_request() -> None:
    session = ClientSession()
    session.submit(1, READ)
    (completion,) = session.receive(adu(1, unit=2))
    assert isinstance(completion.error, MismatchError)
    assert str(completion.error) == "unit 2 answers a request to unit 1"


@pytest.mark.requirement("TG-4.4.1.3-unknown")
def test_an_answer_to_nothing_completes_nothing() -> None:
    session = ClientSession()
    session.submit(1, READ)
    assert session.receive(adu(77)) == []
    assert session.statistics() == SessionStatistics(submitted=1, unknown=1)
    assert session.in_flight == 1


def test_a_second_answer_completes_nothing() -> None:
    session = ClientSession()
    answer_to(session, READ, ANSWER)
    assert session.receive(adu(1)) == []
    assert session.statistics() == SessionStatistics(submitted=1, completed=1, unknown=1)


@pytest.mark.requirement("TG-4.4.1.3-unknown")
def test_a_late_answer_is_dropped_and_counted_and_the_next_call_gets_its_own() -> None:
    # V21: one timeout must not shift every answer after it.
    session = ClientSession()
    transaction, _ = session.submit(1, READ)
    session.abandon(transaction)
    assert session.in_flight == 0
    session.submit(1, READ)
    completions = session.receive(adu(transaction, bytes.fromhex("03021111")) + adu(2))
    assert completions == [Completion(2, RESPONSE, None)]
    assert session.statistics() == SessionStatistics(submitted=2, completed=1, late=1)


def test_abandoning_what_is_not_open_changes_nothing() -> None:
    session = ClientSession()
    answer_to(session, READ, ANSWER)
    session.abandon(1)
    session.abandon(500)
    session.receive(adu(1) + adu(500))
    assert session.statistics() == SessionStatistics(submitted=1, completed=1, unknown=2)


@pytest.mark.requirement("TG-4.4.1.3-header")
def test_a_stream_that_is_not_modbus_is_a_fault_after_the_answers_before_it() -> None:
    session = ClientSession()
    session.submit(1, READ)
    seen = [(len(session.receive(data)), session.fault is None) for data in (adu(1)[:3], adu(1)[3:] + b"HTTP/1.1")]
    assert seen == [(0, True), (1, False)]
    assert session.receive(adu(1)) == []


# --- whom to trust ---------------------------------------------------------------------------


def rtu_session() -> ClientSession:
    return ClientSession(framer=RtuFramer("response"), identified=False)


def test_without_ids_one_request_is_open_at_a_time() -> None:
    session = rtu_session()
    assert session.most_in_flight == 1
    transaction, data = session.submit(1, READ)
    assert (transaction, data) == (0, bytes.fromhex("010300000001840A"))
    with pytest.raises(UsageError, match="one request is in flight at a time"):
        session.submit(1, READ)
    (completion,) = session.receive(RtuFramer("request").encode(1, ANSWER))
    assert completion.response == RESPONSE
    assert session.clean


@pytest.mark.parametrize(
    ("answer", "kind"),
    [(RtuFramer("request").encode(2, ANSWER), "unit 2"), (RtuFramer("request").encode(1, b"\x83\x02\x00"[:2]), "02")],
)
def test_without_ids_a_foreign_answer_is_an_error_and_spoils_the_stream(answer: bytes, kind: str) -> None:
    session = rtu_session()
    session.submit(1, READ)
    (completion,) = session.receive(answer)
    assert kind in str(completion.error)
    assert (session.broken == "mismatched") == isinstance(completion.error, MismatchError)


def test_without_ids_an_abandoned_request_spoils_the_stream() -> None:
    session = rtu_session()
    session.abandon(session.submit(1, READ)[0])
    assert session.broken == "abandoned"
    assert not session.clean


def test_without_ids_an_answer_that_nobody_asked_for_spoils_the_stream() -> None:
    session = rtu_session()
    session.submit(1, READ)
    whole = RtuFramer("request").encode(1, ANSWER)
    (completion,) = session.receive(whole + whole)
    assert completion.response == RESPONSE
    assert session.broken == "unasked"
    assert session.statistics().unknown == 1


def test_with_ids_an_abandoned_request_spoils_nothing() -> None:
    session = ClientSession()
    session.abandon(session.submit(1, READ)[0])
    session.receive(adu(77))
    assert session.broken == ""
    assert not session.clean  # its late answer may still come


def test_a_frame_partly_read_at_a_timeout_spoils_the_stream() -> None:
    session = ClientSession()
    transaction, _ = session.submit(1, READ)
    session.receive(adu(transaction)[:8])
    session.timed_out(transaction)
    assert session.broken == "partial"


def test_a_frame_partly_read_when_its_request_is_cancelled_may_still_end() -> None:
    session = ClientSession()
    cancelled, _ = session.submit(1, READ)
    session.receive(adu(cancelled)[:8])
    session.abandon(cancelled)
    transaction, _ = session.submit(1, READ)
    assert [done.transaction for done in session.receive(adu(cancelled)[8:] + adu(transaction))] == [transaction]
    assert (session.broken, session.statistics().late) == ("", 1)


def test_half_a_late_answer_spoils_the_stream_once_the_next_request_waits_in_vain() -> None:
    session = ClientSession()
    cancelled, _ = session.submit(1, READ)
    session.receive(adu(cancelled)[:8])
    session.abandon(cancelled)
    session.timed_out(session.submit(1, READ)[0])
    assert session.broken == "partial"


@pytest.mark.parametrize("size", [1, 2, 8])
def test_a_frame_that_is_anothers_is_left_to_it(size: int) -> None:
    session = ClientSession()
    given_up, _ = session.submit(1, READ)
    waiting, _ = session.submit(2, READ)
    session.receive(adu(waiting, unit=2)[:size])
    session.timed_out(given_up)
    assert session.broken == ""
    (completion,) = session.receive(adu(waiting, unit=2)[size:])
    assert completion.response == RESPONSE


def test_a_peer_that_says_nothing_at_all_for_long_is_given_up() -> None:
    session = ClientSession()
    for number in range(8):
        assert session.broken == ""
        session.timed_out(session.submit(1, READ)[0])
        if number == 3:
            session.receive(adu(1))  # late, but a sign of life
            for _ in range(4):
                session.timed_out(session.submit(1, READ)[0])
    assert session.broken == "silent"


def test_lenient_matching_takes_wrong_ids_and_units_of_the_only_open_request() -> None:
    session = ClientSession(matching="lenient")
    assert session.most_in_flight == 1
    session.submit(1, READ)
    (completion,) = session.receive(adu(0x1234, unit=9))
    assert completion == Completion(1, RESPONSE, None)
    assert session.statistics().lenient == 2
    session.submit(1, READ)
    (completion,) = session.receive(adu(2, bytes.fromhex("0402002A")))
    assert isinstance(completion.error, MismatchError)  # the function is never lenient
    assert session.broken == "mismatched"


def test_lenient_matching_never_takes_a_late_answer() -> None:
    session = ClientSession(matching="lenient")
    transaction, _ = session.submit(1, READ)
    session.abandon(transaction)
    assert session.broken == "abandoned"
    session.submit(1, READ)
    assert session.receive(adu(transaction)) == []
    assert session.statistics().late == 1


def test_matching_is_strict_or_lenient() -> None:
    with pytest.raises(ConfigurationError, match="loose"):
        ClientSession(matching="loose")  # type: ignore[arg-type]


def test_a_broadcast_is_open_to_nobody() -> None:
    session = ClientSession()
    assert session.broadcast(WriteSingleRegisterRequest(0, 1))[:7] == bytes.fromhex("00010000000600")
    assert session.in_flight == 0
    session.receive(adu(1, bytes.fromhex("0600000001"), unit=0))
    assert session.statistics().late == 1
    serial = rtu_session()
    serial.broadcast(WriteSingleRegisterRequest(0, 1))
    assert serial.submit(1, READ)[0] == 0


@pytest.mark.parametrize("kind", [ReadCoilsRequest, ReadHoldingRegistersRequest])
@pytest.mark.parametrize("quantity", [1, 8, 9, 125])
def test_the_short_way_takes_what_the_long_way_takes(kind: type[AnyRequest], quantity: int) -> None:
    request = kind.parse(bytes((kind.function_code, 0, 0, 0, quantity)))
    for size in range(256):
        for code in (kind.function_code, kind.function_code + 1, kind.function_code | 0x80):
            pdu = bytes((code, size)) + bytes(size)
            short = request.plain_response(pdu)
            try:
                long = match_response(request, pdu)
            except (ExceptionResponseError, MismatchError, PduError):
                assert short is None
            else:
                assert short == long


# --- matching ---------------------------------------------------------------------------------

READS: list[type[AnyRequest]] = [
    ReadCoilsRequest,
    ReadDiscreteInputsRequest,
    ReadHoldingRegistersRequest,
    ReadInputRegistersRequest,
]


@pytest.mark.parametrize("kind", READS, ids=lambda kind: kind.__name__)
def test_a_reply_whose_byte_count_does_not_fit_never_gives_partial_data(kind: type[AnyRequest]) -> None:
    # V03: the reply's byte count is compared with what was asked for, never trusted.
    bits = kind in (ReadCoilsRequest, ReadDiscreteInputsRequest)
    for quantity in range(1, 126):
        request = kind.parse(bytes((kind.function_code, 0, 0, 0, quantity)))
        right = (quantity + 7) // 8 if bits else 2 * quantity
        assert match_response(request, bytes((kind.function_code, right)) + bytes(right)).encode()[1] == right
        for wrong in {0, 1, max(right - 2, 0), right - 1, right + 1, right + 2, 251, 255} - {right}:
            with pytest.raises((MismatchError, PduError)):
                match_response(request, bytes((kind.function_code, wrong)) + bytes(wrong))


@pytest.mark.requirement("AP-4.1-normal-response")
def test_a_response_that_echoes_something_else_does_not_match() -> None:
    request = WriteSingleRegisterRequest(7, 0x1234)
    assert match_response(request, bytes.fromhex("0600071234")).fields() == {"address": 7, "value": 0x1234}
    with pytest.raises(MismatchError, match="the echo says 1234 at 8, not 1234 at 7"):
        match_response(request, bytes.fromhex("0600081234"))


def test_matching_knows_only_the_functions_of_its_table() -> None:
    table = FunctionTable.of(ReadCoilsRequest)
    with pytest.raises(PduError, match="function code 03 is not known"):
        match_response(READ, ANSWER, table)
    completion = answer_to(ClientSession(table), READ, ANSWER)
    assert isinstance(completion.error, PduError)


# --- any order of events ----------------------------------------------------------------------


class Exchange(RuleBasedStateMachine):
    """A client and a careless server: whatever is sent, an answer reaches only its own request."""

    def __init__(self) -> None:
        super().__init__()
        self.session = ClientSession(first_transaction=65530)
        self.open: dict[int, int] = {}
        self.stale: set[int] = set()
        self.next_value = 0
        self.submitted = 0
        self.counts = {"completed": 0, "late": 0, "unknown": 0, "mismatched": 0}

    def pick(self, ids: set[int], data: st.DataObject) -> int:
        return data.draw(st.sampled_from(sorted(ids)))

    def give(self, transaction: int, pdu: bytes, split: int) -> list[Completion]:
        whole = adu(transaction, pdu)
        return self.session.receive(whole[:split]) + self.session.receive(whole[split:])

    @rule()
    def submit(self) -> None:
        self.next_value = (self.next_value + 1) % 65536
        transaction, sent = self.session.submit(1, WriteSingleRegisterRequest(0, self.next_value))
        assert transaction not in self.open
        assert transaction not in self.stale
        assert sent == adu(transaction, bytes((6, 0, 0)) + self.next_value.to_bytes(2, "big"))
        self.open[transaction] = self.next_value
        self.submitted += 1

    @precondition(lambda self: self.open)
    @rule(data=st.data(), split=st.integers(0, 12))
    def answer(self, data: st.DataObject, split: int) -> None:
        transaction = self.pick(set(self.open), data)
        value = self.open.pop(transaction)
        (completion,) = self.give(transaction, bytes((6, 0, 0)) + value.to_bytes(2, "big"), split)
        assert completion.transaction == transaction
        assert completion.error is None
        assert completion.response is not None
        assert completion.response.fields()["value"] == value
        self.counts["completed"] += 1

    @precondition(lambda self: self.open)
    @rule(data=st.data(), split=st.integers(0, 9))
    def refuse(self, data: st.DataObject, split: int) -> None:
        transaction = self.pick(set(self.open), data)
        del self.open[transaction]
        (completion,) = self.give(transaction, b"\x86\x04", split)
        assert isinstance(completion.error, ExceptionResponseError)
        self.counts["completed"] += 1

    @precondition(lambda self: self.open)
    @rule(data=st.data(), split=st.integers(0, 12))
    def answer_with_the_value_of_another(self, data: st.DataObject, split: int) -> None:
        transaction = self.pick(set(self.open), data)
        value = self.open.pop(transaction) ^ 1
        (completion,) = self.give(transaction, bytes((6, 0, 0)) + value.to_bytes(2, "big"), split)
        assert isinstance(completion.error, MismatchError)
        assert completion.response is None
        self.counts["mismatched"] += 1

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        transaction = self.pick(set(self.open), data)
        del self.open[transaction]
        self.session.abandon(transaction)
        self.stale.add(transaction)

    @precondition(lambda self: self.stale)
    @rule(data=st.data(), split=st.integers(0, 12))
    def answer_late(self, data: st.DataObject, split: int) -> None:
        assert self.give(self.pick(self.stale, data), bytes.fromhex("0600000001"), split) == []
        self.counts["late"] += 1

    @rule(transaction=st.integers(0, 65535), split=st.integers(0, 12))
    def answer_nobody(self, transaction: int, split: int) -> None:
        if transaction not in self.open and transaction not in self.stale:
            assert self.give(transaction, bytes.fromhex("0600000001"), split) == []
            self.counts["unknown"] += 1

    @invariant()
    def every_request_is_accounted_for(self) -> None:
        assert self.session.in_flight == len(self.open)
        assert self.session.statistics() == SessionStatistics(submitted=self.submitted, **self.counts)
        ended = self.counts["completed"] + self.counts["mismatched"] + len(self.stale)
        assert self.submitted == len(self.open) + ended


Exchange.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestExchange = Exchange.TestCase
