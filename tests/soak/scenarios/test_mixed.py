"""Everything at once: what of it comes how often, and servers with one fault among all that is done to them."""

from __future__ import annotations

from collections import Counter

import pytest

from everbus.soak.scenarios import SCENARIOS
from everbus.soak.scenarios.mixed import Mixed
from everbus.soak.verdicts import Verdict
from tests.soak.faulty import Deaf, KeepsAfterReset, Right, SwapsIds
from tests.soak.judged import EVERBUS, brief, verdicts
from tests.soak.scripted import Scripted, answer

QUICK = {"churn", "flood", "garbage", "reset", "pipeline"}
"""Those whose cycles end long before a short run does."""


def test_all_of_the_others_come_and_the_slow_ones_seldom() -> None:
    parts = Counter(SCENARIOS["mixed"].part(number).name for number in range(1, 5001))
    assert set(parts) == set(SCENARIOS) - {"mixed"}
    assert 5 < parts["slow-reader"] < 60
    assert 20 < parts["half-open"] < 100
    for name in QUICK:
        assert parts[name] > 800


def test_a_cycle_is_one_of_its_part() -> None:
    churn = SCENARIOS["churn"]
    mixed = Mixed({churn: 1})
    assert mixed.part(5) is churn
    server = Scripted(answer(1))
    with server as target:
        mixed.cycle(target, 5)
    assert len(server.received) == 12


@pytest.mark.slow
def test_both_ways() -> None:
    options = brief("mixed", duration_s=4.0, rate=60.0, concurrency=30, timeout_s=0.8)
    found = verdicts(options, Deaf, SwapsIds, KeepsAfterReset, Right, EVERBUS)
    for kind, words in ((Deaf, "deaf"), (SwapsIds, "bad answer"), (KeepsAfterReset, "descriptors more")):
        assert found[kind].verdict is not Verdict.CLEAN
        assert words in found[kind].findings[0]
    assert found[Deaf].by_scenario["garbage"].failed == found[Deaf].failed > 0
    assert found[SwapsIds].by_scenario["pipeline"].failed == found[SwapsIds].failed > 0
    for acquitted in (Right, EVERBUS):
        assert (found[acquitted].verdict, found[acquitted].findings) == (Verdict.CLEAN, ()), found[acquitted].reason
        assert set(found[acquitted].by_scenario) >= QUICK
    assert "too short a run to judge half-open (that takes 30 s)" in found[EVERBUS].reason, "it gives up after 5 s"
