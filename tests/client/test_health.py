from __future__ import annotations

from everbus.client.health import ClientStatistics, Health, UnitHealth
from everbus.errors import (
    ConnectError,
    ConnectionLostError,
    ExceptionResponseError,
    MismatchError,
    ModbusTimeoutError,
    UsageError,
)
from everbus.protocol.client_session import SessionStatistics


def test_a_new_client_has_done_nothing() -> None:
    assert Health().statistics() == ClientStatistics()


def test_units_are_counted_apart() -> None:
    health = Health()
    health.answered(1)
    health.attempt_failed(2, ModbusTimeoutError())
    health.attempt_failed(2, ModbusTimeoutError())
    health.attempt_failed(3, ExceptionResponseError(2))
    health.attempt_failed(3, MismatchError())
    assert health.statistics().units == {
        1: UnitHealth(answered=1),
        2: UnitHealth(timeouts=2, silent_for=2),
        3: UnitHealth(answered=1, exceptions=1, bad_answers=1),
    }
    health.answered(2)
    assert health.statistics().units[2] == UnitHealth(answered=1, timeouts=2)


def test_the_links_trouble_is_no_units() -> None:
    health = Health()
    health.attempt_failed(1, ConnectError())
    health.attempt_failed(1, ConnectionLostError())
    assert health.statistics().units == {}


def test_a_mistake_of_the_program_is_not_the_units() -> None:
    health = Health()
    health.attempt_failed(1, UsageError())
    assert health.statistics().units.get(1, UnitHealth()) == UnitHealth()


def test_sessions_add_up_and_say_why_they_were_given_up() -> None:
    health = Health()
    health.session_ended(SessionStatistics(submitted=3, late=1), "partial")
    health.session_ended(SessionStatistics(submitted=2), "")
    found = health.statistics(SessionStatistics(submitted=1, unknown=4))
    assert found.session == SessionStatistics(submitted=6, late=1, unknown=4)
    assert found.replaced == {"partial": 1}


def test_failed_calls_are_counted_by_name() -> None:
    health = Health()
    for error in (ModbusTimeoutError(), ModbusTimeoutError(), ExceptionResponseError(2)):
        health.call_failed(error)
    assert health.statistics().failed == {"ModbusTimeoutError": 2, "ExceptionResponseError": 1}
