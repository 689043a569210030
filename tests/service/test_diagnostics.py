from __future__ import annotations

from collections.abc import Callable

import pytest

from everbus.protocol.codes import DiagnosticCode
from everbus.service.diagnostics import Diagnostics

READ = bytes.fromhex("0300000001")
RESTART = bytes.fromhex("0800010000")
COUNTERS = [code for code in DiagnosticCode if 0x0B <= code <= 0x12]


def message(
    diagnostics: Diagnostics, function_code: int = 0x03, exception_code: int = 0, *, answered: bool = True
) -> None:
    """One message that was processed."""
    assert diagnostics.received(bytes((function_code, 0, 0)))
    diagnostics.completed(function_code, exception_code, answered=answered)


def counted(diagnostics: Diagnostics) -> dict[str, int]:
    """The counters that are not zero, by the sub-function that reports them."""
    values = {code.name: diagnostics.counter(code) for code in COUNTERS}
    return {name: value for name, value in values.items() if value}


# --- a line that others share -----------------------------------------------------------------


@pytest.mark.requirement("AP-6.10-receive-line", "SL-A-messages", "SL-A-errors", "SL-A-overruns")
def test_what_is_heard_on_a_line_is_counted_and_logged() -> None:
    diagnostics = Diagnostics()
    diagnostics.overheard(3)
    diagnostics.misheard(2, 0)
    diagnostics.misheard(1, 5)
    assert counted(diagnostics) == {
        "BUS_MESSAGE_COUNT": 3,
        "BUS_COMM_ERROR_COUNT": 3,
        "BUS_CHAR_OVERRUN_COUNT": 5,
    }
    assert diagnostics.log == b"\x92\x82\x82"
    diagnostics.force_listen_only()
    diagnostics.misheard(1000, 1)
    assert diagnostics.log == b"\xb2" * 64


@pytest.mark.requirement("AP-6.10-receive-line", "SL-A-broadcasts")
def test_a_broadcast_is_not_answered() -> None:
    diagnostics = Diagnostics()
    diagnostics.broadcast = True
    message(diagnostics)
    message(diagnostics, exception_code=2)
    diagnostics.broadcast = False
    message(diagnostics)
    assert diagnostics.counter(DiagnosticCode.SERVER_NO_RESPONSE_COUNT) == 2
    assert diagnostics.log == b"\x40\x80\x41\xc0\x40\xc0"


@pytest.mark.requirement("AP-6.10-send-timeout", "SL-A-no-response")
def test_an_answer_that_did_not_leave_is_no_response() -> None:
    diagnostics = Diagnostics()
    message(diagnostics)
    diagnostics.unsent(timed_out=True)
    diagnostics.reads += 1
    diagnostics.unsent(timed_out=True)
    message(diagnostics)
    diagnostics.unsent(timed_out=False)
    assert diagnostics.log == b"\x40\x80\x50\x80\x50\x80"
    assert diagnostics.counter(DiagnosticCode.SERVER_NO_RESPONSE_COUNT) == 3
    diagnostics.received(READ)
    diagnostics.unsent(timed_out=True)
    assert diagnostics.log[:1] == b"\x80"


# --- counters ---------------------------------------------------------------------------------


@pytest.mark.requirement("SL-A-power-up")
def test_everything_is_zero_at_power_up() -> None:
    diagnostics = Diagnostics()
    assert counted(diagnostics) == {}
    assert (diagnostics.events, diagnostics.messages, diagnostics.log) == (0, 0, b"")
    assert (diagnostics.diagnostic_register, diagnostics.listen_only) == (0, False)


@pytest.mark.requirement("AP-6.8.1-0E", "AP-6.9-counted")
def test_a_message_that_is_answered_counts_as_message_and_as_event() -> None:
    diagnostics = Diagnostics()
    message(diagnostics)
    message(diagnostics)
    assert counted(diagnostics) == {"BUS_MESSAGE_COUNT": 2, "SERVER_MESSAGE_COUNT": 2}
    assert (diagnostics.events, diagnostics.messages) == (2, 2)


@pytest.mark.parametrize("code", [1, 2, 3, 4, 5, 8, 0x0A, 0x0B, 0x80])
@pytest.mark.requirement("AP-6.8.1-0D", "AP-6.9-not-counted", "SL-A-exceptions")
def test_an_exception_counts_as_exception_and_not_as_event(code: int) -> None:
    diagnostics = Diagnostics()
    message(diagnostics, exception_code=code)
    assert counted(diagnostics) == {
        "BUS_MESSAGE_COUNT": 1,
        "BUS_EXCEPTION_ERROR_COUNT": 1,
        "SERVER_MESSAGE_COUNT": 1,
    }
    assert diagnostics.events == 0


@pytest.mark.parametrize(("code", "counter"), [(6, "SERVER_BUSY_COUNT"), (7, "SERVER_NAK_COUNT")])
@pytest.mark.requirement("AP-6.8.1-10", "AP-6.8.1-11")
def test_busy_and_negative_acknowledge_have_counters_of_their_own(code: int, counter: str) -> None:
    diagnostics = Diagnostics()
    message(diagnostics, exception_code=code)
    message(diagnostics, exception_code=code)
    assert counted(diagnostics)[counter] == 2
    assert counted(diagnostics)["BUS_EXCEPTION_ERROR_COUNT"] == 2


@pytest.mark.requirement("AP-6.9-not-counted")
def test_fetching_the_event_counter_is_no_event() -> None:
    diagnostics = Diagnostics()
    message(diagnostics, 0x0B)
    assert (diagnostics.events, diagnostics.messages) == (0, 1)


@pytest.mark.requirement("SL-A-no-response")
def test_a_message_without_an_answer_is_counted() -> None:
    diagnostics = Diagnostics()
    message(diagnostics, answered=False)
    assert counted(diagnostics)["SERVER_NO_RESPONSE_COUNT"] == 1


@pytest.mark.requirement("AP-6.8.1-0C", "AP-6.8.1-12")
def test_what_a_serial_line_counts_is_reported() -> None:
    diagnostics = Diagnostics()
    diagnostics.bus_comm_errors += 3
    diagnostics.character_overruns += 2
    assert counted(diagnostics) == {"BUS_COMM_ERROR_COUNT": 3, "BUS_CHAR_OVERRUN_COUNT": 2}


def test_a_sub_function_that_is_no_counter_reports_none() -> None:
    with pytest.raises(KeyError):
        Diagnostics().counter(DiagnosticCode.RETURN_QUERY_DATA)


@pytest.mark.requirement("SL-A-16-bits")
def test_counters_have_16_bits_and_wrap() -> None:
    diagnostics = Diagnostics()
    diagnostics.bus_messages = diagnostics.event_count = 0xFFFF
    message(diagnostics)
    assert (diagnostics.messages, diagnostics.events) == (0, 0)
    assert diagnostics.counter(DiagnosticCode.BUS_MESSAGE_COUNT) == 0


def test_a_read_by_the_short_way_is_noted_like_any_other() -> None:
    long_way, short_way = Diagnostics(), Diagnostics()
    for _ in range(3):
        message(long_way)
        short_way.reads += 1
    for diagnostics in (long_way, short_way):
        message(diagnostics, exception_code=2)
        assert counted(diagnostics) == counted(long_way)
        assert diagnostics.log == long_way.log == bytes((0x41, 0x80, *(0x40, 0x80) * 3))
        assert (diagnostics.messages, diagnostics.events) == (4, 3)


VIEWS: list[Callable[[Diagnostics], int]] = [
    lambda diagnostics: diagnostics.events,
    lambda diagnostics: diagnostics.messages,
    lambda diagnostics: diagnostics.counter(DiagnosticCode.SERVER_MESSAGE_COUNT),
    lambda diagnostics: len(diagnostics.log) // 2,
]


@pytest.mark.parametrize("view", VIEWS)
def test_reads_by_the_short_way_are_noted_once_when_somebody_looks(view: Callable[[Diagnostics], int]) -> None:
    diagnostics = Diagnostics()
    diagnostics.reads = 5
    assert [view(diagnostics), view(diagnostics)] == [5, 5]
    assert [look(diagnostics) for look in VIEWS] == [5, 5, 5, 5]


# --- the event log ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "event"),
    [(0, 0x40), (1, 0x41), (2, 0x41), (3, 0x41), (4, 0x42), (5, 0x44), (6, 0x44), (7, 0x48), (8, 0x40), (0x0B, 0x40)],
)
@pytest.mark.requirement("AP-6.10-receive", "AP-6.10-send")
def test_a_message_leaves_a_receive_event_and_a_send_event(code: int, event: int) -> None:
    diagnostics = Diagnostics()
    diagnostics.received(READ)
    assert diagnostics.log == b"\x80"
    diagnostics.completed(0x03, code)
    assert diagnostics.log == bytes((event, 0x80))
    assert diagnostics.counter(DiagnosticCode.SERVER_NO_RESPONSE_COUNT) == 0


@pytest.mark.requirement("AP-6.10-send")
def test_a_message_without_an_answer_leaves_a_send_event_too() -> None:
    diagnostics = Diagnostics()
    message(diagnostics, answered=False)
    assert diagnostics.log == b"\x40\x80"


@pytest.mark.requirement("AP-6.10-log")
def test_the_log_is_newest_first_and_keeps_64_events() -> None:
    diagnostics = Diagnostics()
    for code in [4, *[0] * 31]:
        message(diagnostics, exception_code=code)
    assert diagnostics.log == b"\x40\x80" * 31 + b"\x42\x80"
    message(diagnostics, exception_code=7)
    assert diagnostics.log == b"\x48\x80" + b"\x40\x80" * 31


@pytest.mark.parametrize("reads", [31, 32, 33, 1_000_000])
def test_any_number_of_reads_by_the_short_way_fills_the_log_and_no_more(reads: int) -> None:
    diagnostics = Diagnostics()
    diagnostics.received(READ)
    diagnostics.completed(0x03, 4)
    diagnostics.reads = reads
    assert diagnostics.log == (b"\x40\x80" * min(reads, 32) + b"\x42\x80")[:64]
    assert diagnostics.events == reads & 0xFFFF


# --- clear and restart ------------------------------------------------------------------------


def busy_diagnostics() -> Diagnostics:
    diagnostics = Diagnostics()
    for code in (0, 4, 6, 7):
        message(diagnostics, exception_code=code)
    message(diagnostics, answered=False)
    diagnostics.bus_comm_errors = diagnostics.character_overruns = diagnostics.diagnostic_register = 9
    diagnostics.reads = 5
    assert len(counted(diagnostics)) == 8
    return diagnostics


@pytest.mark.requirement("AP-6.8.1-0A")
def test_clearing_zeroes_the_counters_and_the_register_and_keeps_the_log() -> None:
    diagnostics = busy_diagnostics()
    log = diagnostics.log
    diagnostics.clear()
    assert counted(diagnostics) == {}
    assert (diagnostics.events, diagnostics.diagnostic_register) == (0, 0)
    assert diagnostics.log == log


def test_reads_before_a_clearing_are_not_counted_after_it() -> None:
    diagnostics = Diagnostics()
    diagnostics.reads = 5
    diagnostics.clear()
    assert counted(diagnostics) == {}
    assert diagnostics.log == b"\x40\x80" * 5


@pytest.mark.requirement("SL-A-cleared")
def test_the_message_that_clears_is_not_the_first_thing_counted() -> None:
    diagnostics = busy_diagnostics()
    diagnostics.received(bytes.fromhex("08000A0000"))
    diagnostics.clear()
    diagnostics.completed(0x08)
    assert counted(diagnostics) == {}
    assert diagnostics.events == 0
    message(diagnostics)
    assert counted(diagnostics) == {"BUS_MESSAGE_COUNT": 1, "SERVER_MESSAGE_COUNT": 1}
    assert diagnostics.events == 1


@pytest.mark.requirement("AP-6.10-restart", "SL-A-cleared")
def test_a_restart_clears_the_counters_and_leaves_its_event_in_the_log() -> None:
    diagnostics = busy_diagnostics()
    log = diagnostics.log
    diagnostics.received(RESTART)
    assert diagnostics.restart(clear_log=False)
    diagnostics.completed(0x08)
    assert counted(diagnostics) == {}
    assert diagnostics.log[0] == 0x00
    assert diagnostics.log.endswith(b"\x80" + log)


@pytest.mark.requirement("AP-6.8.1-01-log")
def test_a_restart_may_clear_the_log_of_everything_but_its_own_event() -> None:
    diagnostics = busy_diagnostics()
    diagnostics.received(bytes.fromhex("080001FF00"))
    assert diagnostics.restart(clear_log=True)
    diagnostics.completed(0x08)
    assert diagnostics.log == b"\x00"
    assert counted(diagnostics) == {}


# --- listen-only mode -------------------------------------------------------------------------


def listening() -> Diagnostics:
    diagnostics = Diagnostics()
    diagnostics.received(bytes.fromhex("0800040000"))
    diagnostics.force_listen_only()
    diagnostics.completed(0x08, answered=False)
    return diagnostics


@pytest.mark.requirement("AP-6.10-entered")
def test_listen_only_mode_is_entered_with_its_event() -> None:
    diagnostics = listening()
    assert diagnostics.listen_only
    assert diagnostics.log[:1] == b"\x04"


@pytest.mark.requirement("AP-6.8.1-04", "AP-6.10-receive-listen-only")
def test_messages_are_only_monitored_in_listen_only_mode() -> None:
    diagnostics = listening()
    before = diagnostics.counter(DiagnosticCode.SERVER_NO_RESPONSE_COUNT)
    assert not diagnostics.received(READ)
    assert not diagnostics.received(bytes.fromhex("08000A0000"))
    assert diagnostics.log[:2] == b"\xa0\xa0"
    assert (diagnostics.messages, diagnostics.events) == (3, 0)
    assert diagnostics.counter(DiagnosticCode.SERVER_NO_RESPONSE_COUNT) == before + 2


@pytest.mark.parametrize("clear_log", [False, True])
@pytest.mark.requirement("AP-6.8.1-01-listen-only")
def test_only_a_restart_is_processed_and_it_is_not_answered(clear_log: bool) -> None:
    diagnostics = listening()
    assert diagnostics.received(RESTART)
    assert not diagnostics.restart(clear_log=clear_log)
    diagnostics.completed(0x08, answered=False)
    assert not diagnostics.listen_only
    assert diagnostics.log[0] == 0x00
    assert (b"\xa0" in diagnostics.log) == (not clear_log)
    assert diagnostics.received(READ)


@pytest.mark.requirement("AP-6.10-send-listen-only")
def test_what_ends_in_listen_only_mode_says_so_in_the_log() -> None:
    diagnostics = Diagnostics()
    diagnostics.received(READ)
    diagnostics.listen_only = True
    diagnostics.completed(0x03)
    assert diagnostics.log == b"\x60\x80"
