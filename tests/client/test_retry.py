from __future__ import annotations

import pytest

from everbus.client.options import ClientOptions
from everbus.client.retry import Backoff, changes_nothing, pause_before_retry_s
from everbus.errors import (
    ConnectError,
    ConnectionLostError,
    ExceptionResponseError,
    InvalidRequestError,
    MismatchError,
    ModbusError,
    ModbusTimeoutError,
)
from everbus.protocol.codes import FunctionCode
from everbus.protocol.pdu.bits import ReadCoilsRequest, WriteSingleCoilRequest
from everbus.protocol.pdu.diagnostics import DiagnosticsRequest, ReportServerIdRequest
from everbus.protocol.pdu.encapsulated import CanOpenRequest, ReadDeviceIdentificationRequest
from everbus.protocol.pdu.registers import ReadWriteMultipleRegistersRequest
from everbus.protocol.pdu.table import PUBLIC, AnyRequest

READ, WRITE = ReadCoilsRequest(0, 1), WriteSingleCoilRequest.of(0, True)


@pytest.mark.parametrize(
    ("request_", "harmless"),
    [
        (READ, True),
        (WRITE, False),
        (ReportServerIdRequest(), True),
        (ReadWriteMultipleRegistersRequest.of(0, 1, 0, [1]), False),
        (DiagnosticsRequest(0, b"\x00\x01"), True),
        (DiagnosticsRequest(0x0A, b"\x00\x00"), False),
        (DiagnosticsRequest(0x0B, b"\x00\x00"), True),
        (ReadDeviceIdentificationRequest(1, 0), True),
        (CanOpenRequest(b"\x01"), False),
    ],
    ids=repr,
)
def test_reads_change_nothing(request_: AnyRequest, harmless: bool) -> None:
    assert changes_nothing(request_) is harmless


def test_every_public_function_is_decided() -> None:
    assert sum(code in PUBLIC for code in range(128)) == len(FunctionCode)


@pytest.mark.parametrize(
    ("error", "request_", "sent", "options", "pause_s"),
    [
        (ModbusTimeoutError(), READ, True, {}, 0.0),
        (ModbusTimeoutError(), WRITE, True, {}, None),
        (ModbusTimeoutError(), WRITE, False, {}, 0.0),
        (ModbusTimeoutError(), WRITE, True, {"retry_writes": True}, 0.0),
        (ConnectionLostError(), READ, True, {}, 0.0),
        (ConnectionLostError(), WRITE, True, {}, None),
        (ConnectError(), WRITE, False, {}, 0.1),
        (MismatchError(), READ, True, {}, 0.0),
        (MismatchError(), WRITE, True, {}, None),
        (ExceptionResponseError(2), READ, True, {}, None),
        (ExceptionResponseError(6), READ, True, {}, None),
        (ExceptionResponseError(6), WRITE, True, {"retry_busy_s": 0.5}, 0.5),
        (ExceptionResponseError(5), READ, True, {"retry_busy_s": 0.5}, None),  # accepted: it must not come again
        (ExceptionResponseError(4), READ, True, {"retry_busy_s": 0.5}, None),
        (InvalidRequestError(), READ, False, {}, None),
    ],
    ids=repr,
)
def test_what_is_repeated_and_when(
    error: ModbusError, request_: AnyRequest, sent: bool, options: dict[str, object], pause_s: float | None
) -> None:
    assert pause_before_retry_s(error, request_, sent, ClientOptions(**options)) == pause_s  # type: ignore[arg-type]


def pauses(backoff: Backoff, times: int) -> list[float]:
    found = []
    for _ in range(times):
        backoff.failed(100.0)
        found.append(round(backoff.not_before - 100.0, 3))
    return found


def test_back_off_doubles_up_to_its_longest_pause_and_starts_again() -> None:
    backoff = Backoff(lambda: 1.0)
    assert pauses(backoff, 11) == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]
    backoff.connected(200.0)
    backoff.ended(200.1, answered=True, by_peer=True)
    assert pauses(backoff, 1) == [0.1]


def test_back_off_has_jitter() -> None:
    assert pauses(Backoff(lambda: 0.0), 1) == [0.05]
    assert pauses(Backoff(lambda: 0.5), 1) == [0.075]


@pytest.mark.parametrize(
    ("lasted_s", "answered", "by_peer", "pause_s"),
    [(0.1, False, True, 0.2), (0.1, False, False, 0.0), (0.1, True, True, 0.0), (1.0, False, True, 0.0)],
)
def test_a_connection_that_the_peer_ends_at_once_counts_as_a_failure(
    lasted_s: float, answered: bool, by_peer: bool, pause_s: float
) -> None:
    backoff = Backoff(lambda: 1.0)
    backoff.failed(0.0)
    backoff.connected(10.0)
    backoff.ended(10.0 + lasted_s, answered=answered, by_peer=by_peer)
    assert max(0.0, backoff.not_before - 10.0 - lasted_s) == pytest.approx(pause_s)


def test_nobody_waits_for_more_than_half_of_his_time() -> None:
    backoff = Backoff(lambda: 1.0)
    assert backoff.pause_s(100.0, 103.0) == 0.0
    pauses(backoff, 6)
    assert backoff.pause_s(100.0, 103.0) == 1.5
    assert backoff.pause_s(100.0, 200.0) == pytest.approx(3.2)
    assert backoff.pause_s(110.0, 113.0) == 0.0
