from __future__ import annotations

import pytest

from bench.cases import CASES, Case
from bench.contenders import FLOOR
from bench.reach import PROMISES, ratio
from tests.bench.documents import made_up
from tools.environments import PYMODBUS

ONE = Case(50, 1, "read", 10)


def test_a_ratio_needs_both_servers() -> None:
    assert ratio(made_up(), ONE, FLOOR) == pytest.approx(0.6)
    assert ratio(made_up(), ONE, "somebody else") is None


@pytest.mark.parametrize(
    ("floor_rate", "verdict"), [(100_000, "aim reached"), (110_000, "reached"), (121_000, "MISSED")]
)
def test_a_promise_is_judged_by_its_bound_and_its_aim(floor_rate: float, verdict: str) -> None:
    assert PROMISES[0].verdict(made_up(**{FLOOR: floor_rate})) == verdict


@pytest.mark.parametrize(("size", "verdict"), [(3000, "aim reached"), (4000, "reached"), (4200, "MISSED")])
def test_less_is_better_where_it_is(size: int, verdict: str) -> None:
    document = made_up()
    document["idle"]["everbus"]["bytes_each"] = size
    assert PROMISES[-1].at_most
    assert PROMISES[-1].verdict(document) == verdict


def test_what_was_not_measured_is_not_judged() -> None:
    document = made_up()
    for case in CASES:
        del document["cases"][case.name][FLOOR]
    document["idle"]["everbus"] = {"connections": 0, "why": "refused"}
    assert PROMISES[0].verdict(document) == PROMISES[-1].verdict(document) == "not measured"


def test_every_promise_reads_the_document() -> None:
    document = made_up(**{PYMODBUS: 15_000})
    assert all(promise.value(document) is not None for promise in PROMISES)
