"""Clients that come and go, against servers that do not take them, or keep something of each."""

from __future__ import annotations

import socket

import pytest

from everbus.soak.scenarios.base import Scenario
from everbus.soak.scenarios.churn import Churn, Flood
from everbus.soak.target import CycleFailedError, FailureKind, Target, TurnedAwayError
from everbus.soak.verdicts import Verdict
from tests.soak.faulty import KeepsMemory, RefusesMost, Right, TakesThree
from tests.soak.judged import EVERBUS, brief, verdicts
from tests.soak.scripted import Scripted, answer


@pytest.mark.parametrize(("scenario", "transaction"), [(Churn(), 1), (Flood(), 3)], ids=["churn", "flood"])
def test_a_cycle_is_one_request_on_a_connection_of_its_own(scenario: Scenario, transaction: int) -> None:
    server = Scripted(answer(transaction))
    with server as target:
        scenario.cycle(target, 3)
    assert server.received == transaction.to_bytes(2) + bytes.fromhex("0000 0006 01 03 0000 0001")


def test_a_flood_may_be_turned_away_and_churn_may_not() -> None:
    with Scripted(closes=True) as target, pytest.raises(TurnedAwayError):
        Flood().cycle(target, 1)
    with Scripted(closes=True) as target, pytest.raises(CycleFailedError) as caught:
        Churn().cycle(target, 1)
    assert caught.value.kind is FailureKind.RESET


def test_a_flood_is_not_to_be_fooled_with() -> None:
    """Half an answer is none, and a wrong one is wrong."""
    for sent in (answer(1)[:-1], answer(2)):
        with Scripted(sent, closes=True) as target, pytest.raises(CycleFailedError):
            Flood().cycle(target, 1)


def test_nobody_may_be_left_hanging() -> None:
    with socket.create_server(("127.0.0.1", 0)) as never_accepts:
        target = Target(socket.AF_INET, never_accepts.getsockname(), timeout_s=0.1)
        with pytest.raises(CycleFailedError) as caught:
            Flood().cycle(target, 1)
    assert caught.value.kind is FailureKind.TIMEOUT


@pytest.mark.slow
def test_flood_both_ways() -> None:
    options = brief("flood", duration_s=2.5, rate=60.0, concurrency=20, timeout_s=1.0)
    found = verdicts(options, TakesThree, RefusesMost, Right, EVERBUS)
    convicted = found[TakesThree]
    many = convicted.cycles
    assert convicted.verdict is Verdict.FAILING
    assert convicted.findings == (f"{many} of {many} cycles failed ({many} timeout)",)
    assert convicted.rate_missed > 10
    for kind in (RefusesMost, Right, EVERBUS):
        assert (found[kind].verdict, found[kind].findings) == (Verdict.CLEAN, ()), found[kind].reason
        assert found[kind].rate == pytest.approx(60, rel=0.15)
    assert 0 < found[RefusesMost].turned_away <= found[RefusesMost].cycles
    assert f", {found[RefusesMost].turned_away} of them were turned away, " in found[RefusesMost].reason


@pytest.mark.slow
def test_memory_that_grows_with_the_cycles() -> None:
    """16 KiB for each connection; the same number of them leaves nothing with those that are right."""
    found = verdicts(brief("churn", cycles=1600, concurrency=2), KeepsMemory, Right, EVERBUS)
    assert found[KeepsMemory].verdict is Verdict.LEAK
    (finding,) = found[KeepsMemory].findings
    assert finding.startswith("memory grew by 1")
    assert finding.endswith("and went on growing")
    for kind in (Right, EVERBUS):
        assert (found[kind].verdict, found[kind].findings) == (Verdict.CLEAN, ()), found[kind].reason
