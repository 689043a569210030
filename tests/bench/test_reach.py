from __future__ import annotations

import pytest

from bench.cases import CASES, SEQUENTIAL_SYNC, Case
from bench.contenders import FLOOR, OWN, RAW
from bench.reach import CLIENT_PROMISES, PROMISES, Promise, client_ratio, ratio
from tests.bench.documents import made_up
from tools.environments import PYMODBUS

ONE = Case(50, 1, "read", 10)


def promise(words: str) -> Promise:
    return next(one for one in (*PROMISES, *CLIENT_PROMISES) if words in one.what)


IDLE = promise("idle connection")
RAW_SOCKET = promise("raw socket")
COMMAND = promise("everbus read")


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
    assert IDLE.at_most
    assert IDLE.verdict(document) == verdict


def test_what_was_not_measured_is_not_judged() -> None:
    document = made_up()
    for case in CASES:
        del document["cases"][case.name][FLOOR]
    document["idle"]["everbus"] = {"connections": 0, "why": "refused"}
    document["clients"] = document["command"] = {}
    for promise in (PROMISES[0], IDLE, RAW_SOCKET, COMMAND):
        assert promise.verdict(document) == "not measured"


def test_every_promise_reads_the_document() -> None:
    document = made_up(**{PYMODBUS: 15_000})
    assert all(promise.value(document) is not None for promise in (*PROMISES, *CLIENT_PROMISES))


@pytest.mark.parametrize(("rate", "verdict"), [(19_000, "aim reached"), (18_000, "reached"), (17_900, "MISSED")])
def test_a_client_is_compared_with_one_of_its_kind(rate: float, verdict: str) -> None:
    document = made_up()
    document["clients"][SEQUENTIAL_SYNC.name][OWN]["median"]["per_s"] = rate
    assert client_ratio(document, SEQUENTIAL_SYNC, RAW) == pytest.approx(rate / 20_000)
    assert RAW_SOCKET.verdict(document) == verdict
    del document["clients"][SEQUENTIAL_SYNC.name][RAW]
    assert RAW_SOCKET.verdict(document) == "not measured"


@pytest.mark.parametrize(("cpu_ms", "verdict"), [(110, "aim reached"), (150, "reached"), (151, "MISSED")])
def test_the_command_is_judged_by_its_processor_time(cpu_ms: float, verdict: str) -> None:
    document = made_up()
    document["command"]["median"]["cpu_ms"] = cpu_ms
    assert COMMAND.verdict(document) == verdict
