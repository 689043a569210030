"""Clients that vanish, against a server that keeps something of each."""

from __future__ import annotations

import pytest

from everbus.soak.scenarios.reset import Reset
from everbus.soak.target import CycleFailedError, FailureKind
from everbus.soak.verdicts import Verdict
from tests.soak.faulty import KeepsAfterReset, Right
from tests.soak.judged import EVERBUS, brief, verdicts
from tests.soak.scripted import Scripted, answer


def test_it_happens_at_every_point_of_a_request() -> None:
    lengths = set()
    for number in range(1, 41):
        server = Scripted(answer(number))
        with server as target:
            Reset().cycle(target, number)
        lengths.add(len(server.received))
    assert {0, 12} < lengths <= set(range(13))


def test_what_is_read_must_be_right() -> None:
    kinds = set()
    for number in range(1, 21):
        with Scripted(answer(number + 1)) as target:
            try:
                Reset().cycle(target, number)
            except CycleFailedError as error:
                kinds.add(error.kind)
    assert kinds == {FailureKind.BAD_ANSWER}


@pytest.mark.slow
def test_both_ways() -> None:
    found = verdicts(brief("reset", cycles=240, rate=200.0), KeepsAfterReset, Right, EVERBUS)
    assert found[KeepsAfterReset].verdict is Verdict.LEAK
    (finding,) = found[KeepsAfterReset].findings
    assert finding.startswith("240 descriptors more than at the start after 240 cycles, 1.00 per cycle")
    for kind in (Right, EVERBUS):
        assert (found[kind].verdict, found[kind].findings) == (Verdict.CLEAN, ()), found[kind].reason
