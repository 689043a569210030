from __future__ import annotations

import pytest

from everbus.client.options import ClientOptions
from everbus.client.pacing import QUIET_S, Pacing, Silence
from everbus.errors import ConfigurationError, ModbusTimeoutError


def test_without_pauses_everything_is_ready() -> None:
    pacing = Pacing(ClientOptions())
    pacing.connected(5.0)
    pacing.ended(1, 6.0)
    assert not pacing.in_use
    assert pacing.unit_ready_at(1) == 0.0
    assert pacing.link_ready_at() <= 6.0


def test_the_link_rests_after_connect_and_after_each_exchange() -> None:
    pacing = Pacing(ClientOptions(spacing_s=0.5, connect_delay_s=2.0))
    assert pacing.in_use
    pacing.connected(10.0)
    assert pacing.link_ready_at() == 12.0
    pacing.ended(1, 13.0)
    assert pacing.link_ready_at() == 13.5


def test_a_unit_rests_alone() -> None:
    pacing = Pacing(ClientOptions())
    pacing.space_unit(7, 1.5)
    assert pacing.in_use
    pacing.ended(7, 10.0)
    pacing.ended(8, 10.0)
    assert (pacing.unit_ready_at(7), pacing.unit_ready_at(8), pacing.link_ready_at()) == (11.5, 0.0, 0.0)
    pacing.begun(7, 20.0)
    pacing.begun(8, 20.0)
    assert (pacing.unit_ready_at(7), pacing.unit_ready_at(8)) == (21.5, 0.0)
    pacing.space_unit(7, 0)
    assert pacing.unit_ready_at(7) == 0.0
    pacing.space_unit(7, 0)


def test_the_longest_connect_delay_counts() -> None:
    pacing = Pacing(ClientOptions(connect_delay_s=0.2))
    pacing.delay_connect(0.1)
    assert pacing.connect_delay_s == 0.2
    pacing.delay_connect(0.3)
    assert pacing.connect_delay_s == 0.3


@pytest.mark.parametrize("wrong", [-1.0, float("nan")])
def test_pauses_are_not_negative(wrong: float) -> None:
    pacing = Pacing(ClientOptions())
    with pytest.raises(ConfigurationError, match="spacing"):
        pacing.space_unit(1, wrong)
    with pytest.raises(ConfigurationError, match="connect delay"):
        pacing.delay_connect(wrong)


def test_a_line_has_to_be_silent_for_a_while_whoever_waits_for_that() -> None:
    silence = Silence("/dev/ttyUSB0")
    assert silence.left_s(100.0, 101.0) == 0.0
    silence.broken(100.0)
    assert silence.left_s(100.02, 101.0) == pytest.approx(QUIET_S - 0.02)
    with pytest.raises(ModbusTimeoutError, match="/dev/ttyUSB0 has not been quiet"):
        silence.left_s(100.02, 100.04)
    assert silence.left_s(100.0 + QUIET_S, 100.0 + QUIET_S) == 0.0
