"""What scenarios have in common, and one question and its answer."""

from __future__ import annotations

import pytest

from everbus.protocol.client_session import ClientSession
from everbus.soak.scenarios import SCENARIOS
from everbus.soak.scenarios.base import ask, chance_of
from everbus.soak.target import CycleFailedError, FailureKind, Target
from tests.soak.scripted import Scripted, answer
from tests.soak.servers import ANSWERS, running


def asked(target: Target, number: int) -> None:
    with target.connect() as link:
        ask(target, link, ClientSession(first_transaction=number))


def test_the_registry_is_in_the_order_of_the_command_line() -> None:
    assert list(SCENARIOS) == [
        "churn",
        "flood",
        "half-open",
        "slow-reader",
        "garbage",
        "reset",
        "pipeline",
        "mixed",
    ]


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_says_what_it_does_and_when_it_ends(name: str) -> None:
    scenario = SCENARIOS[name]
    assert scenario.name == name
    assert scenario.summary[0].islower()
    assert scenario.criterion.endswith(".")
    assert "convict" in scenario.criterion
    assert (scenario.defaults.cycles is None) != (scenario.defaults.duration_s is None)
    assert scenario.part(7).name in SCENARIOS


def test_the_same_number_makes_the_same_choices() -> None:
    def drawn(name: str, number: int) -> list[float]:
        chance = chance_of(name, number)
        return [chance.random() for _ in range(3)]

    assert drawn("reset", 5) == drawn("reset", 5)
    assert drawn("reset", 5) != drawn("reset", 6)
    assert drawn("reset", 5) != drawn("garbage", 5)


def test_one_holding_register_is_asked_for() -> None:
    server = Scripted(answer(0x1234))
    with server as target:
        asked(target, 0x1234)
    assert server.received == bytes.fromhex("1234 0000 0006 01 03 0000 0001")


def test_another_unit_is_asked_where_wanted() -> None:
    server = Scripted(bytes.fromhex("0001 0000 0005 07 03 02 0000"))
    with server as target:
        asked(Target(target.family, target.address, unit=7), 1)
    assert server.received[6] == 7


def test_an_exception_is_an_answer() -> None:
    with Scripted(answer(1, ANSWERS["exception"])) as target:
        asked(target, 1)


def test_an_answer_in_pieces_is_put_together() -> None:
    with Scripted(*(bytes([byte]) for byte in answer(9))) as target:
        asked(target, 9)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(answer(1, ANSWERS[mode]), id=mode)
        for mode in ("wrong_protocol", "wrong_unit", "wrong_function", "wrong_count", "broken_count")
    ]
    + [
        pytest.param(answer(1, ANSWERS["foreign_exception"]), id="foreign_exception"),
        pytest.param(answer(2), id="wrong_transaction"),
        pytest.param(answer(2) + answer(1), id="two_answers"),
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", id="not_modbus"),
    ],
)
def test_a_bad_answer(sent: bytes) -> None:
    with Scripted(sent) as target, pytest.raises(CycleFailedError) as caught:
        asked(target, 1)
    assert caught.value.kind is FailureKind.BAD_ANSWER
    assert caught.value.connected


def test_half_an_answer() -> None:
    with Scripted(answer(1)[:-1], closes=True) as target, pytest.raises(CycleFailedError) as caught:
        asked(target, 1)
    assert caught.value.kind is FailureKind.RESET


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "kind"),
    [("silent", FailureKind.TIMEOUT), ("closes", FailureKind.RESET), ("resets", FailureKind.RESET)],
)
def test_no_answer(mode: str, kind: FailureKind) -> None:
    with running(mode) as server:
        target = Target(2, (server.endpoint.host, server.endpoint.port), timeout_s=0.3)
        with pytest.raises(CycleFailedError, match=r"answer|closed") as caught:
            asked(target, 1)
    assert caught.value.kind is kind


def test_one_byte_now_and_then_does_not_stretch_the_timeout() -> None:
    with running("dribbles") as server:
        target = Target(2, (server.endpoint.host, server.endpoint.port), timeout_s=0.01)
        with pytest.raises(CycleFailedError) as caught:
            asked(target, 1)
    assert caught.value.kind is FailureKind.TIMEOUT
