"""The script without any host: what it asks for, step by step, with a clock that a test turns."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from everbus.client.endpoint import Endpoint, parse_endpoint
from everbus.client.exchange import NOBODY, Ask, Exchange, Pause, Room, Script, new_session, prepared
from everbus.client.health import Health
from everbus.client.options import ClientOptions
from everbus.errors import (
    ConnectError,
    ConnectionLostError,
    ExceptionResponseError,
    InvalidRequestError,
    ModbusTimeoutError,
    UsageError,
)
from everbus.protocol.client_session import ClientSession
from everbus.protocol.framing.mbap import MbapFramer
from everbus.protocol.pdu.bits import ReadCoilsRequest
from everbus.protocol.pdu.registers import (
    ReadHoldingRegistersRequest,
    ReadHoldingRegistersResponse,
    WriteSingleRegisterRequest,
)

ENDPOINT = parse_endpoint("tcp://192.0.2.7")
READ = ReadHoldingRegistersRequest(0, 1)
ANSWER = bytes.fromhex("0302002A")


class Bench:
    """An exchange, its clock and its session."""

    def __init__(self, endpoint: Endpoint = ENDPOINT, **options: Any) -> None:
        self.endpoint = endpoint
        self.now = 100.0
        self.options = ClientOptions(**options)
        self.health = Health()
        self.session = new_session(endpoint, self.options, ClientSession)
        self.exchange = Exchange(self.endpoint, self.options, lambda: self.now, self.health)

    def completion(self, ask: Ask, pdu: bytes = ANSWER) -> object:
        (completion,) = self.session.receive(MbapFramer().encode(1, pdu, ask.transaction))
        return completion


def returned(script: Script, outcome: object) -> object:
    with pytest.raises(StopIteration) as end:
        script.send(outcome)
    return end.value.value


def test_a_request_takes_a_link_asks_and_returns_the_response() -> None:
    bench = Bench()
    script = bench.exchange.script(1, READ, bench.now)
    assert next(script) == Room(1, 101.5, False)
    ask = script.send(bench.session)
    assert ask == Ask(1, bytes.fromhex("000100000006010300000001"), 101.5)
    assert returned(script, bench.completion(ask)) == ReadHoldingRegistersResponse(b"\x00\x2a")
    found = bench.health.statistics()
    assert (found.calls, found.attempts, found.retries, found.units[1].answered) == (1, 1, 0, 1)


def test_an_attempt_that_was_sent_already_is_only_waited_for() -> None:
    bench = Bench(retries=1)
    transaction, _ = bench.session.submit(1, READ)
    bench.now = 101.0
    script = bench.exchange.script(1, READ, 100.0, bench.session, transaction)
    assert next(script) == Ask(transaction, b"", 101.5)
    assert script.send(None) == Room(1, 102.5, False)
    assert bench.session.statistics().submitted == 1
    assert script.send(bench.session) == Ask(2, bytes.fromhex("000200000006010300000001"), 102.5)
    found = bench.health.statistics()
    assert (found.calls, found.attempts, found.retries, found.units[1].timeouts) == (1, 2, 1, 1)


def test_on_a_serial_line_a_unit_that_may_still_answer_is_asked_nothing_else() -> None:
    bench = Bench(parse_endpoint("/dev/ttyUSB0"), timeout_s=4.0, retries=1)
    script = bench.exchange.script(1, READ, bench.now)
    assert next(script) == Room(1, 102.0, False)
    script.send(bench.session)
    bench.now = 102.0
    assert script.send(None) == Room(1, 104.0, False)
    bench.session = new_session(bench.endpoint, bench.options, ClientSession)
    assert isinstance(script.send(bench.session), Ask)  # the same may be asked again at once
    script.close()
    other = bench.exchange.script(1, ReadHoldingRegistersRequest(1, 1), bench.now)
    assert next(other) == Room(1, 104.0, False)
    assert other.send(bench.session) == Room(1, 104.0, False)  # not before 106, and its attempt ends at 104
    with pytest.raises(ModbusTimeoutError, match="may still answer"):
        other.send(bench.session)
    patient = bench.exchange.script(1, WriteSingleRegisterRequest(0, 1), bench.now + 1.0)
    next(patient)
    assert patient.send(bench.session) == Pause(106.0)
    bench.now = 106.0
    assert patient.send(None) == Room(1, 107.0, True)
    elsewhere = bench.exchange.script(2, ReadHoldingRegistersRequest(1, 1), bench.now)
    next(elsewhere)
    bench.session = new_session(bench.endpoint, bench.options, ClientSession)
    assert isinstance(elsewhere.send(bench.session), Ask)


def test_a_session_goes_on_counting_where_the_one_before_ended() -> None:
    options = ClientOptions()
    before = new_session(ENDPOINT, options, ClientSession)
    before.submit(1, READ)
    assert new_session(ENDPOINT, options, ClientSession, before).submit(1, READ)[0] == 2


@pytest.mark.parametrize("kind", [ReadCoilsRequest, ReadHoldingRegistersRequest])
def test_a_read_is_prepared_once(kind: type[Any]) -> None:
    pdu, careful = prepared(kind(3, 2))
    assert (pdu, careful) == (kind(3, 2).encode(), False)
    assert prepared(kind(3, 2))[0] is pdu
    for wrong in (kind(3, 2.0), kind(3, 0), kind(65_535, 2)):
        with pytest.raises(InvalidRequestError):
            prepared(wrong)


@pytest.mark.requirement("TG-4.4.1.3-timer")
def test_silence_is_repeated_with_a_new_id_then_given_up() -> None:
    bench = Bench(timeout_s=3.0, retries=2)
    script = bench.exchange.script(1, READ, bench.now)
    ids = []
    step = next(script)
    for attempt in range(3):
        assert step == Room(1, 101.0 + attempt, False)
        ask = script.send(bench.session)
        assert isinstance(ask, Ask)
        ids.append(ask.transaction)
        bench.now = ask.until
        if attempt < 2:
            step = script.send(None)
    with pytest.raises(ModbusTimeoutError, match=r"unit 1 of tcp://192\.0\.2\.7:502 did not answer .* within 1 s"):
        script.send(None)
    assert ids == [1, 2, 3]
    assert bench.session.in_flight == 0
    assert bench.health.statistics().failed == {"ModbusTimeoutError": 1}


def test_a_fast_failure_leaves_its_time_to_nobody_else() -> None:
    bench = Bench(timeout_s=3.0, retries=1)
    script = bench.exchange.script(1, READ, bench.now)
    next(script)
    script.send(bench.session)
    bench.now += 0.25
    assert script.throw(ConnectionLostError("gone")) == Room(1, 101.75, False)


def test_nobody_there_is_tried_again_after_a_pause_and_within_the_deadline() -> None:
    bench = Bench(timeout_s=3.0)
    script = bench.exchange.script(1, WriteSingleRegisterRequest(0, 1), bench.now)
    next(script)
    assert script.throw(ConnectError("refused")) == Pause(100.1)
    bench.now = 100.1
    assert script.send(None) == Room(1, 103.0, True)
    with pytest.raises(ConnectError):
        script.throw(ConnectError("refused"))


def test_a_pause_past_the_deadline_is_not_taken() -> None:
    bench = Bench(timeout_s=0.05)
    script = bench.exchange.script(1, READ, bench.now)
    next(script)
    with pytest.raises(ConnectError):
        script.throw(ConnectError("refused"))


def test_a_write_that_may_have_arrived_is_not_repeated() -> None:
    bench = Bench()
    script = bench.exchange.script(1, WriteSingleRegisterRequest(0, 1), bench.now)
    next(script)
    script.send(bench.session)
    with pytest.raises(ConnectionLostError):
        script.throw(ConnectionLostError("gone"))
    assert bench.session.in_flight == 0


def test_an_exception_names_unit_peer_and_function() -> None:
    bench = Bench()
    script = bench.exchange.script(1, READ, bench.now)
    next(script)
    ask = script.send(bench.session)
    assert isinstance(ask, Ask)
    with pytest.raises(ExceptionResponseError, match=r"unit 1 of tcp://192\.0\.2\.7:502 answered .*02") as caught:
        script.send(bench.completion(ask, b"\x83\x02"))
    assert (caught.value.code, caught.value.function_code) == (2, 3)


def test_cancelling_abandons_what_is_open() -> None:
    bench = Bench()
    script = bench.exchange.script(1, READ, bench.now)
    next(script)
    ask = script.send(bench.session)
    assert isinstance(ask, Ask)
    with pytest.raises(asyncio.CancelledError):
        script.throw(asyncio.CancelledError())
    assert bench.session.in_flight == 0
    assert bench.session.receive(MbapFramer().encode(1, ANSWER, ask.transaction)) == []
    assert bench.session.statistics().late == 1


@pytest.mark.parametrize(("unit", "request_"), [(256, READ), (1, ReadHoldingRegistersRequest(0, 126))])
def test_what_cannot_be_sent_asks_for_nothing(unit: int, request_: ReadHoldingRegistersRequest) -> None:
    bench = Bench()
    with pytest.raises(UsageError):
        next(bench.exchange.script(unit, request_, bench.now))
    assert bench.health.statistics().calls == 0


def test_somebody_may_know_that_the_device_is_slow() -> None:
    bench = Bench(timeout_s=3.0, retries=0)
    bench.exchange.require_timeout(8.0)
    assert next(bench.exchange.script(1, READ, bench.now)) == Room(1, 108.0, False)
    bench.exchange.require_timeout(1.0)
    assert next(bench.exchange.script(1, READ, bench.now)) == Room(1, 103.0, False)


def test_a_broadcast_goes_to_unit_0_and_waits_for_nobody() -> None:
    bench = Bench()
    script = bench.exchange.broadcast(WriteSingleRegisterRequest(0, 1))
    assert next(script) == Room(0, 103.0, True)
    ask = script.send(bench.session)
    assert isinstance(ask, Ask)
    assert (ask.transaction, ask.data[6]) == (NOBODY, 0)
    assert returned(script, None) is None
    assert bench.session.receive(MbapFramer().encode(0, bytes.fromhex("0600000001"), 1)) == []
    assert bench.session.statistics().late == 1


def test_a_broadcast_that_fails_is_counted() -> None:
    bench = Bench()
    script = bench.exchange.broadcast(WriteSingleRegisterRequest(0, 1))
    next(script)
    with pytest.raises(ConnectError):
        script.throw(ConnectError("refused"))
    assert bench.health.statistics().failed == {"ConnectError": 1}
    with pytest.raises(InvalidRequestError):
        next(bench.exchange.broadcast(ReadHoldingRegistersRequest(0, 0)))


def test_a_session_speaks_the_endpoints_framing() -> None:
    rtu = new_session(parse_endpoint("rtu+tcp://192.0.2.7:4001"), ClientOptions(), ClientSession)
    assert rtu.submit(1, READ) == (0, bytes.fromhex("010300000001840A"))
    assert rtu.most_in_flight == 1
