"""Runs: against scenarios made up for the purpose, then against servers that leak and servers that do not."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from everbus.client.endpoint import Endpoint
from everbus.errors import ConfigurationError, ConnectError
from everbus.soak import runner
from everbus.soak.runner import SoakOptions, SoakResult, soak
from everbus.soak.scenarios import SCENARIOS, CycleFailedError, FailureKind, Target
from everbus.soak.verdicts import Verdict
from tests.soak.servers import running

if TYPE_CHECKING:
    from collections.abc import Callable

ANYWHERE = Endpoint("tcp", host="127.0.0.1", port=9)
BRIEF = SoakOptions(cycles=60, pause_at=30, pause_s=0.1, timeout_s=2.0, settle_s=0.3, grace_s=0.3)

pytestmark = pytest.mark.slow


class MadeUp:
    """A scenario that records its cycles and does as it is told."""

    name = "made-up"
    summary = "nothing"

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


# --- options ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cycles", 0),
        ("pause_at", -1),
        ("pause_s", -0.1),
        ("concurrency", 0),
        ("concurrency", 1001),
        ("unit", 256),
        ("timeout_s", 0.0),
        ("settle_s", -1.0),
        ("grace_s", float("nan")),
    ],
)
def test_options_that_cannot_work(name: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=name):
        replace(BRIEF, **{name: value})  # type: ignore[arg-type]


def test_an_unknown_scenario() -> None:
    with pytest.raises(ConfigurationError, match="no scenario 'flood', but churn"):
        SoakOptions(scenario="flood")


# --- the cycles -------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 7])
def test_every_cycle_is_made_once(made_up: MadeUp, concurrency: int) -> None:
    made_up.act = lambda *_: time.sleep(0.001)
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
    assert result.failures == {"refused": 0, "timeout": 1, "reset": 2, "bad_answer": 1, "other": 0}
    assert (result.cycles, result.failed, result.verdict) == (60, 4, Verdict.FAILING)
    assert result.first_failure == "cycle 1: it was timeout"


def test_a_server_that_is_plainly_gone_ends_the_run(made_up: MadeUp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_GONE_S", 0.3)
    made_up.act = lambda _, number: fail(FailureKind.REFUSED, connected=False) if number > 10 else None
    result = soak(ANYWHERE, made_up_options(cycles=10_000))
    assert 15 <= result.cycles < 100
    assert result.failures["refused"] == result.cycles - 10
    assert result.verdict is Verdict.FAILING
    assert result.reason.endswith("stopped early")


def test_a_server_that_comes_back_goes_on(made_up: MadeUp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_GONE_S", 0.2)
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

    monkeypatch.setattr(runner, "resolve", lambda *_: targets)
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


def test_an_interrupt_ends_the_run_at_once(made_up: MadeUp) -> None:
    def interrupt(stage: str, cycles: int) -> None:
        raise KeyboardInterrupt

    made_up.act = lambda *_: time.sleep(0.05)
    begin = time.monotonic()
    with running("clean") as server, pytest.raises(KeyboardInterrupt):
        soak(ANYWHERE, made_up_options(cycles=1000, concurrency=2), server.pid, interrupt)
    assert time.monotonic() - begin < 5


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
    assert result.record.settled_s < 1.0


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


# --- the document -----------------------------------------------------------------------------


def test_the_document_of_a_run() -> None:
    result = judged("clean")
    document = json.loads(json.dumps(result.document()))
    assert result.record is not None
    figure = result.record.descriptors
    assert document | {"memory": 0, "rate": 0, "settled_s": 0, "samples": 0, "pid": 0, "endpoint": ""} == {
        "ok": True,
        "verdict": "clean",
        "reason": result.reason,
        "endpoint": "",
        "pid": 0,
        "scenario": "churn",
        "requested": 60,
        "concurrency": 1,
        "cycles": 60,
        "failed": 0,
        "failures": {"refused": 0, "timeout": 0, "reset": 0, "bad_answer": 0, "other": 0},
        "first_failure": "",
        "rate": 0,
        "descriptors": {"start": figure.start, "peak": figure.peak, "end": figure.end},
        "listeners": {"start": 1, "peak": 1, "end": 1},
        "memory": 0,
        "new_listeners": [],
        "settled_s": 0,
        "samples": 0,
    }
    assert document["rate"] > 0
    assert document["settled_s"] >= 0.3
    assert document["memory"]["end"] > 1_000_000
    assert document["pid"] == result.record.pid
    first = document["samples"][0]
    assert (len(first), first[1], first[2], first[3]) == (5, 0, figure.start, 1)


def test_the_document_without_a_process(made_up: MadeUp) -> None:
    made_up.act = lambda _, number: fail(FailureKind.RESET) if number == 2 else None
    document = soak(ANYWHERE, made_up_options()).document()
    assert document["ok"] is False
    assert document["verdict"] == "failing"
    assert document["first_failure"] == "cycle 2: it was reset"
    for name in ("pid", "descriptors", "listeners", "memory", "settled_s"):
        assert document[name] is None
    assert document["samples"] == document["new_listeners"] == []
