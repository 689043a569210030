"""Runs: against scenarios made up for the purpose, then against servers that leak and servers that do not."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from everbus.client.endpoint import Endpoint
from everbus.errors import ConnectError
from everbus.soak import runner, tally
from everbus.soak.asking import Asker
from everbus.soak.polite import OwnDelay
from everbus.soak.result import PartCount
from everbus.soak.runner import SoakOptions, SoakResult, soak
from everbus.soak.scenarios import SCENARIOS, Defaults, Scenario
from everbus.soak.target import CutShortError, CycleFailedError, FailureKind, Link, Target, TurnedAwayError
from everbus.soak.verdicts import Verdict
from tests.soak import faulty
from tests.soak.documents import NO_CLIENTS
from tests.soak.servers import running

if TYPE_CHECKING:
    from collections.abc import Callable

ANYWHERE = Endpoint("tcp", host="127.0.0.1", port=9)
BRIEF = SoakOptions(cycles=60, pause_at=30, pause_s=0.1, timeout_s=2.0, settle_s=0.3, grace_s=0.3)
NO_FAILURES = dict.fromkeys((kind.value for kind in FailureKind), 0)

pytestmark = pytest.mark.slow


class MadeUp(Scenario):
    """A scenario that records its cycles and does as it is told."""

    name = "made-up"
    summary = "nothing"
    criterion = "Nothing convicts."
    defaults = Defaults(cycles=60, concurrency=1, polite=0)

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.times: list[float] = []
        self.threads: set[str] = set()
        self.act: Callable[[Target, int], None] = lambda *_: None

    def cycle(self, target: Target, number: int) -> None:
        self.numbers.append(number)
        self.times.append(time.monotonic())
        self.threads.add(threading.current_thread().name)
        self.act(target, number)


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> MadeUp:
    scenario = MadeUp()
    monkeypatch.setitem(SCENARIOS, scenario.name, scenario)
    return scenario


def made_up_options(**changes: float | None) -> SoakOptions:
    return replace(BRIEF, scenario="made-up", **changes)  # type: ignore[arg-type]


def fail(kind: FailureKind, connected: bool = True) -> None:
    raise CycleFailedError(kind, f"it was {kind}", connected)


# --- the cycles -------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 7])
def test_every_cycle_is_made_once(made_up: MadeUp, concurrency: int) -> None:
    made_up.act = lambda *_: time.sleep(0.01)
    result = soak(ANYWHERE, made_up_options(concurrency=concurrency))
    assert sorted(made_up.numbers) == list(range(1, 61))
    assert (result.cycles, result.failed, result.verdict) == (60, 0, Verdict.CLEAN)
    assert len(made_up.threads - {"MainThread"}) == concurrency


def test_there_is_a_pause_after_the_cycle_that_was_named(made_up: MadeUp) -> None:
    stages: list[tuple[str, int]] = []
    options = made_up_options(pause_at=20, pause_s=0.3, concurrency=4)
    result = soak(ANYWHERE, options, progress=lambda *seen: stages.append(seen))
    assert sorted(made_up.numbers[:20]) == list(range(1, 21))
    assert made_up.times[20] - made_up.times[19] >= 0.3
    assert ("pause", 20) in stages
    assert stages[-1] == ("cycles", 60)
    assert result.rate > 60 / 0.3


def test_by_default_the_pause_is_in_the_middle(made_up: MadeUp) -> None:
    soak(ANYWHERE, made_up_options(pause_at=None, pause_s=0.3))
    assert made_up.times[30] - made_up.times[29] >= 0.3


@pytest.mark.parametrize("pause_at", [0, 60, 100])
def test_there_need_not_be_a_pause(made_up: MadeUp, pause_at: int) -> None:
    begin = time.monotonic()
    assert soak(ANYWHERE, made_up_options(pause_at=pause_at, pause_s=30)).cycles == 60
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize(("cycles", "pause_at"), [(1, 0), (2, 1)])
def test_very_few_cycles(made_up: MadeUp, cycles: int, pause_at: int) -> None:
    assert soak(ANYWHERE, made_up_options(cycles=cycles, pause_at=pause_at)).cycles == cycles


def test_failures_are_counted_by_kind_and_stop_nothing(made_up: MadeUp) -> None:
    kinds = {1: FailureKind.TIMEOUT, 10: FailureKind.RESET, 20: FailureKind.RESET, 40: FailureKind.BAD_ANSWER}
    made_up.act = lambda _, number: fail(kinds[number]) if number in kinds else None
    result = soak(ANYWHERE, made_up_options(concurrency=3))
    assert result.failures == NO_FAILURES | {"timeout": 1, "reset": 2, "bad_answer": 1}
    assert (result.cycles, result.failed, result.verdict) == (60, 4, Verdict.FAILING)
    assert result.first_failure == "cycle 1: it was timeout"


def test_a_server_that_is_plainly_gone_ends_the_run(made_up: MadeUp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "_GONE_S", 0.3)
    made_up.act = lambda _, number: fail(FailureKind.REFUSED, connected=False) if number > 10 else None
    result = soak(ANYWHERE, made_up_options(cycles=10_000))
    assert 15 <= result.cycles < 100
    assert result.failures["refused"] == result.cycles - 10
    assert result.verdict is Verdict.FAILING
    assert result.reason.endswith("stopped early")


def test_a_server_that_comes_back_goes_on(made_up: MadeUp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "_GONE_S", 0.2)
    made_up.act = lambda _, number: fail(FailureKind.REFUSED) if number % 4 else None
    result = soak(ANYWHERE, made_up_options(pause_at=0))
    assert (result.cycles, result.failed) == (60, 45)


def test_the_address_that_takes_connections_is_found_and_kept(made_up: MadeUp, monkeypatch: pytest.MonkeyPatch) -> None:
    targets = [Target(socket.AF_INET6, "first"), Target(socket.AF_INET, "second"), Target(socket.AF_INET, "third")]
    used: list[str] = []

    def act(target: Target, number: int) -> None:
        used.append(target.address)
        if target.address == "first":
            fail(FailureKind.REFUSED, connected=False)
        if number == 1:
            fail(FailureKind.TIMEOUT)

    monkeypatch.setattr(runner, "resolve", lambda *_, **__: targets)
    made_up.act = act
    result = soak(ANYWHERE, made_up_options())
    assert used == ["first"] + ["second"] * 60
    assert (result.cycles, result.failed) == (60, 1)


def test_no_connection_at_the_start_is_no_verdict(made_up: MadeUp) -> None:
    made_up.act = lambda *_: fail(FailureKind.REFUSED, connected=False)
    with pytest.raises(ConnectError, match=r"tcp://127\.0\.0\.1:9: it was refused"):
        soak(ANYWHERE, made_up_options())
    assert made_up.numbers == [1]


@pytest.mark.parametrize("error", [ConnectError("no port left"), RuntimeError("a mistake in the scenario")])
def test_what_is_not_the_servers_fault_ends_the_run(made_up: MadeUp, error: Exception) -> None:
    def act(_: Target, number: int) -> None:
        if number == 5:
            raise error

    made_up.act = act
    with pytest.raises(type(error), match=str(error)):
        soak(ANYWHERE, made_up_options(cycles=100_000, pause_at=0, concurrency=3))
    assert len(made_up.numbers) < 100_000


def test_an_interrupt_ends_the_cycles_and_what_was_seen_is_judged(made_up: MadeUp) -> None:
    interrupted: list[int] = []

    def interrupt(stage: str, cycles: int) -> None:
        if cycles and not interrupted:
            interrupted.append(cycles)
            raise KeyboardInterrupt

    made_up.act = lambda *_: time.sleep(0.01)
    with running("clean") as server:
        result = soak(ANYWHERE, made_up_options(cycles=100_000, concurrency=2), server.pid, interrupt)
    assert result.interrupted
    assert interrupted[0] <= result.cycles < 100_000
    assert (result.verdict, result.record is None) == (Verdict.CLEAN, False)


def test_an_interrupt_while_it_settles_judges_what_was_seen(made_up: MadeUp) -> None:
    def interrupt(stage: str, cycles: int) -> None:
        if stage == "settling":
            raise KeyboardInterrupt

    with running("clean") as server:
        result = soak(ANYWHERE, made_up_options(settle_s=60.0, grace_s=60.0), server.pid, interrupt)
    assert (result.interrupted, result.cycles, result.verdict) == (True, 60, Verdict.CLEAN)


def test_an_interrupt_that_comes_again_ends_the_run_at_once(made_up: MadeUp) -> None:
    def interrupt(stage: str, cycles: int) -> None:
        raise KeyboardInterrupt

    made_up.act = lambda *_: time.sleep(0.05)
    begin = time.monotonic()
    with running("clean") as server, pytest.raises(KeyboardInterrupt):
        soak(ANYWHERE, made_up_options(cycles=1000, concurrency=2), server.pid, interrupt)
    assert time.monotonic() - begin < 5


# --- by time ----------------------------------------------------------------------------------


def test_a_run_by_time_ends_on_time_whatever_is_under_way(made_up: MadeUp) -> None:
    """A cycle that waits for the server is cut short, and counts neither way."""
    ours, theirs = socket.socketpair()

    def wait(target: Target, number: int) -> None:
        if number == 5:
            with Link(ours, target.stop) as link:
                link.receive(time.monotonic() + 60)
        time.sleep(0.02)

    made_up.act = wait
    begin = time.monotonic()
    with theirs:
        result = soak(ANYWHERE, made_up_options(cycles=None, duration_s=0.5, pause_at=None, concurrency=3))
    took = time.monotonic() - begin
    assert 0.5 <= result.duration_s <= took < 0.9
    assert (result.cycles, result.failed) == (len(made_up.numbers) - 1, 0)
    assert result.cycles > 20


@pytest.mark.parametrize(("cycles", "duration_s"), [(5, 30.0), (10**6, 0.3)])
def test_with_a_number_and_a_time_the_first_ends_it(made_up: MadeUp, cycles: int, duration_s: float) -> None:
    made_up.act = lambda *_: time.sleep(0.01)
    result = soak(ANYWHERE, made_up_options(cycles=cycles, duration_s=duration_s, pause_at=0))
    assert result.duration_s < 1
    assert result.cycles <= min(cycles, 30)
    assert result.cycles >= 5


def test_a_run_by_time_pauses_where_it_is_told(made_up: MadeUp) -> None:
    made_up.act = lambda *_: time.sleep(0.01)
    soak(ANYWHERE, made_up_options(cycles=None, duration_s=0.6, pause_at=10, pause_s=0.2))
    assert made_up.times[10] - made_up.times[9] >= 0.2
    assert max(later - sooner for sooner, later in pairwise(made_up.times[10:])) < 0.15


def test_a_pause_ends_with_the_run(made_up: MadeUp) -> None:
    result = soak(ANYWHERE, made_up_options(cycles=None, duration_s=0.3, pause_at=10, pause_s=30.0))
    assert result.duration_s < 1
    assert result.cycles == 10


def test_a_time_in_which_no_cycle_ends_acquits_nobody(made_up: MadeUp) -> None:
    def hold(target: Target, number: int) -> None:
        assert target.stop is not None
        target.stop.wait(30)
        raise CutShortError

    made_up.act = hold
    result = soak(ANYWHERE, made_up_options(cycles=None, duration_s=0.2))
    assert (result.cycles, result.verdict) == (0, Verdict.FAILING)


# --- by the clock -----------------------------------------------------------------------------


def test_cycles_start_by_the_clock_whatever_becomes_of_those_before(made_up: MadeUp) -> None:
    made_up.act = lambda *_: time.sleep(0.1)
    result = soak(ANYWHERE, made_up_options(cycles=40, pause_at=0, rate=100.0, concurrency=30))
    starts = sorted(made_up.times[1:20])  # the first finds the server, and there is a rest after half of them
    for number, start in enumerate(starts):
        assert start - starts[0] == pytest.approx(number / 100, abs=0.05)
    assert result.rate_missed == 0


def test_a_rate_that_is_missed_is_counted_and_not_made_up_for(made_up: MadeUp) -> None:
    made_up.act = lambda *_: time.sleep(0.05)
    options = made_up_options(cycles=None, duration_s=1.5, rate=200.0, concurrency=2, pause_at=None)
    result = soak(ANYWHERE, options)
    assert result.cycles < 70
    assert 100 < result.rate_missed < 300
    assert result.cycles + result.rate_missed <= 300 + 100 * tally._BEHIND_S


@pytest.mark.parametrize(("slow", "pause_s"), [(1, 0.0), (0, 0.7)], ids=["the first cycle", "a rest"])
def test_what_takes_its_time_between_cycles_misses_none(made_up: MadeUp, slow: int, pause_s: float) -> None:
    """The clock begins anew after it: no cycle was due meanwhile."""
    made_up.act = lambda _, number: time.sleep(0.7 if number == slow else 0)
    options = made_up_options(cycles=16, pause_at=8, pause_s=pause_s, rate=50.0, concurrency=2)
    result = soak(ANYWHERE, options)
    assert (result.cycles, result.rate_missed) == (16, 0)


def test_a_slow_rate_does_not_keep_the_end_waiting(made_up: MadeUp) -> None:
    result = soak(ANYWHERE, made_up_options(cycles=None, duration_s=0.4, rate=4.0, concurrency=10))
    assert result.duration_s < 1
    assert result.cycles <= 3


# --- parts ------------------------------------------------------------------------------------


def test_cycles_are_counted_by_the_scenario_that_they_belong_to(
    made_up: MadeUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = MadeUp()
    monkeypatch.setattr(other, "name", "other", raising=False)
    monkeypatch.setitem(SCENARIOS, "other", other)
    monkeypatch.setattr(made_up, "part", lambda number: other if number % 3 == 0 else made_up)
    other.act = lambda _, number: fail(FailureKind.HELD) if number > 50 else None
    result = soak(ANYWHERE, made_up_options())
    assert result.by_scenario == {"made-up": PartCount(40, 0), "other": PartCount(20, 4)}
    assert result.failures["held"] == 4
    assert result.first_failure == "cycle 51: it was held"


def test_a_server_that_still_does_something_is_not_gone(made_up: MadeUp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "_GONE_S", 0.0)
    made_up.act = lambda *_: fail(FailureKind.DEAF)
    assert soak(ANYWHERE, made_up_options(cycles=10, pause_at=0)).cycles == 10


def test_what_may_be_this_machines_fault_counts_neither_way(made_up: MadeUp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OwnDelay, "since", lambda *_: 1.0)
    made_up.act = lambda _, number: fail(FailureKind.TIMEOUT if number % 2 else FailureKind.RESET)
    result = soak(ANYWHERE, made_up_options(cycles=20))
    assert (result.cycles, result.failures["reset"], result.failures["timeout"]) == (10, 10, 0)
    assert result.excused == 10


def test_newcomers_that_were_turned_away_are_counted(made_up: MadeUp) -> None:
    def turn_away(_: Target, number: int) -> None:
        if number % 3 == 0:
            raise TurnedAwayError

    made_up.act = turn_away
    result = soak(ANYWHERE, made_up_options())
    assert (result.cycles, result.failed, result.turned_away, result.excused) == (60, 0, 20, 0)
    assert result.reason.startswith("clean: none of 60 cycles failed, 20 of them were turned away, ")


@pytest.mark.parametrize(
    ("hold_s", "first", "said"), [(30.0, 2, True), (0.2, 30, True), (0.2, 2, False)], ids=["short", "late", "in time"]
)
def test_a_run_too_short_to_judge_a_part_says_so(
    made_up: MadeUp, monkeypatch: pytest.MonkeyPatch, hold_s: float, first: int, said: bool
) -> None:
    """Whether the run is shorter than such a cycle, or the first began too late; one that came to its end is judged."""
    slow = MadeUp()
    monkeypatch.setattr(slow, "name", "slow", raising=False)
    monkeypatch.setattr(slow, "held_share", 1.0, raising=False)
    monkeypatch.setitem(SCENARIOS, "slow", slow)
    monkeypatch.setattr(made_up, "part", lambda number: slow if number in (first, 30) else made_up)

    def hold(target: Target, number: int) -> None:
        assert target.stop is not None
        if target.stop.wait(hold_s):
            raise CutShortError

    slow.act = hold
    options = made_up_options(cycles=None, duration_s=0.4, rate=100.0, concurrency=4, pause_at=None, hold_s=hold_s)
    result = soak(ANYWHERE, options)
    assert result.verdict is Verdict.CLEAN
    assert ("slow" in result.by_scenario) is not said
    assert (f"too short a run to judge slow (that takes {hold_s:g} s)" in result.reason) is said
    assert ("too short" in result.reason) is said


def test_the_bound_of_memory_is_that_of_so_many_at_a_time(made_up: MadeUp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made_up, "most_growth_bytes", -100 << 20, raising=False)
    monkeypatch.setattr(made_up, "growth_each_bytes", -1 << 20, raising=False)  # whatever it holds is too much
    with running("clean") as server:
        result = soak(ANYWHERE, made_up_options(concurrency=3, settle_s=0.0), server.pid)
    assert result.findings[0].endswith(" MiB above the start, which is more than -3 MiB")


# --- polite clients ---------------------------------------------------------------------------


def test_polite_clients_are_there_from_the_first_look_to_the_last(made_up: MadeUp) -> None:
    made_up.act = lambda *_: time.sleep(0.01)
    with running("Right", faulty.__file__) as server:
        result = soak(server.endpoint, made_up_options(polite=3), server.pid)
    assert result.polite is not None
    assert result.record is not None
    assert result.polite.clients == 3
    assert result.polite.requests > 3 * 10
    figure = result.record.descriptors
    assert figure.start == figure.peak == figure.end
    assert result.verdict is Verdict.CLEAN


def test_a_polite_client_that_is_not_served_convicts(made_up: MadeUp) -> None:
    with running("wrong_unit") as server:
        result = soak(server.endpoint, made_up_options(cycles=2, polite=1))
    assert result.verdict is Verdict.FAILING
    assert result.polite is not None
    assert result.polite.failures["bad_answer"] == result.polite.failed > 0
    assert "polite requests failed" in result.findings[0]


def test_a_client_of_ours_that_breaks_is_no_verdict(made_up: MadeUp, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether that comes in the first request or after the last cycle."""
    read = Asker.read
    broken = threading.Event()

    def breaks(asker: Asker, quantity: int = 1) -> None:
        if broken.is_set():
            raise RuntimeError("a mistake in the client")
        read(asker, quantity)

    def settling(stage: str, cycles: int) -> None:
        if stage == "settling":
            broken.set()

    monkeypatch.setattr(Asker, "read", breaks)
    with running("Right", faulty.__file__) as server:
        for again in (settling, lambda *_: None):
            with pytest.raises(RuntimeError, match="a mistake in the client"):
                soak(server.endpoint, made_up_options(polite=2), server.pid, again)


def test_no_connection_for_the_polite_is_no_verdict(made_up: MadeUp) -> None:
    with pytest.raises(ConnectError, match=r"tcp://127\.0\.0\.1:9: cannot connect: Connection refused"):
        soak(ANYWHERE, made_up_options(polite=1))
    assert made_up.numbers == []


# --- real servers -----------------------------------------------------------------------------


def judged(mode: str, **changes: float) -> SoakResult:
    options = replace(BRIEF, **changes)  # type: ignore[arg-type]
    with running(mode) as server:
        return soak(server.endpoint, options, server.pid)


def test_a_clean_server_is_clean() -> None:
    result = judged("clean", concurrency=3)
    assert (result.verdict, result.cycles, result.failed) == (Verdict.CLEAN, 60, 0)
    assert result.record is not None
    assert result.record.descriptors.growth == result.record.listeners.growth == 0
    assert result.new_listeners == ()
    assert result.client == replace(NO_CLIENTS, clients=60, calls=60, connects=60)


def test_a_server_that_opens_a_listening_socket_for_each_client_is_convicted() -> None:
    """As pymodbus 3.7.4 did, a second after each disconnect: the positive control."""
    result = judged("leaks_listeners", pause_s=1.5, settle_s=2.0, grace_s=2.0)
    assert result.verdict is Verdict.LEAK
    assert result.reason.startswith("leak: 60 listening sockets more than at the start after 60 cycles, 1.00 per")
    assert result.record is not None
    assert result.record.listeners.growth == result.record.descriptors.growth == 60
    assert len(result.new_listeners) == 10
    assert all(address.startswith("127.0.0.1:") for address in result.new_listeners)


def test_a_server_that_forgets_descriptors_is_convicted() -> None:
    assert judged("leaks_descriptors").reason.startswith("leak: 60 descriptors more")


def test_what_leaks_in_children_counts() -> None:
    result = judged("leaks_in_child", cycles=10, pause_at=5, settle_s=1.0, grace_s=1.0)
    assert result.verdict is Verdict.LEAK


def test_a_server_that_opens_much_at_first_is_clean() -> None:
    result = judged("warm_up")
    assert result.verdict is Verdict.CLEAN
    assert "40 descriptors more than at the start, which do not grow" in result.reason


def test_a_server_that_closes_late_has_its_grace() -> None:
    result = judged("closes_late", pause_s=0.0, settle_s=0.2, grace_s=10.0)
    assert result.verdict is Verdict.CLEAN
    assert result.record is not None
    assert result.record.descriptors.peak > result.record.descriptors.end
    assert result.record.settled_s < 5


def test_no_more_than_its_grace() -> None:
    result = judged("closes_late", pause_s=0.0, settle_s=0.2, grace_s=0.3)
    assert result.verdict is Verdict.LEAK
    assert result.record is not None
    assert result.record.settled_s < 1.9


def test_a_server_that_dies_is_failing() -> None:
    result = judged("dies", cycles=100_000, pause_at=0)
    assert result.verdict is Verdict.FAILING
    assert "ended after 1" in result.reason
    assert result.cycles < 200


def test_a_server_that_dies_after_the_last_cycle_is_failing_too() -> None:
    with running("clean") as server:

        def kill(stage: str, cycles: int) -> None:
            if stage == "settling":
                server.process.kill()
                server.process.wait()

        result = soak(server.endpoint, replace(BRIEF, settle_s=0.0), server.pid, kill)
    assert result.reason == f"failing: process {server.pid} ended after 60 cycles"


def test_without_a_pid_nobody_looks() -> None:
    with running("exception") as server:
        result = soak(server.endpoint, BRIEF)
    assert (result.verdict, result.record) == (Verdict.CLEAN, None)


def test_no_such_process() -> None:
    with subprocess.Popen(["true"]) as process:
        pass
    with pytest.raises(ProcessLookupError):
        soak(ANYWHERE, BRIEF, process.pid)
