"""Options that cannot work, and what they are where nothing is said."""

from __future__ import annotations

import pytest

from everbus.errors import ConfigurationError
from everbus.soak.options import SoakOptions
from everbus.soak.scenarios import SCENARIOS


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cycles", 0),
        ("duration_s", 0.0),
        ("duration_s", float("inf")),
        ("rate", 0.0),
        ("rate", float("nan")),
        ("concurrency", 0),
        ("concurrency", 1001),
        ("polite", -1),
        ("polite", 101),
        ("hold_s", 0.0),
        ("unit", 256),
        ("timeout_s", 0.0),
        ("pause_at", -1),
        ("pause_s", -0.1),
        ("settle_s", -1.0),
        ("grace_s", float("nan")),
    ],
)
def test_options_that_cannot_work(name: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} is a number of .* to .*, not {value}"):
        SoakOptions(**{name: value})  # type: ignore[arg-type]


def test_an_unknown_scenario() -> None:
    with pytest.raises(ConfigurationError, match="no scenario 'flod', but churn, flood, half-open"):
        SoakOptions(scenario="flod")


def test_a_run_that_would_end_before_it_can_judge() -> None:
    with pytest.raises(ConfigurationError, match=r"half-open judges after 30 s .*, so duration_s must be more"):
        SoakOptions(scenario="half-open", duration_s=30.0)
    with pytest.raises(ConfigurationError, match=r"slow-reader judges after 10 s \(hold_s is 30\)"):
        SoakOptions(scenario="slow-reader", duration_s=10.0)
    SoakOptions(scenario="half-open", duration_s=30.1)
    SoakOptions(scenario="half-open", duration_s=3.0, hold_s=2.0)
    SoakOptions(scenario="mixed", duration_s=3.0)


@pytest.mark.parametrize("name", SCENARIOS)
def test_what_is_not_said_is_as_the_scenario_has_it(name: str) -> None:
    resolved = SoakOptions(scenario=name).resolved()
    own = SCENARIOS[name].defaults
    assert (resolved.cycles, resolved.duration_s) == (own.cycles, own.duration_s)
    assert (resolved.rate, resolved.concurrency, resolved.polite) == (own.rate, own.concurrency, own.polite)
    assert resolved.resolved() == resolved


def test_what_is_said_stands() -> None:
    said = SoakOptions(scenario="flood", cycles=7, rate=3.0, concurrency=2, polite=0, unit=9)
    resolved = said.resolved()
    assert (resolved.cycles, resolved.duration_s) == (7, None)
    assert (resolved.rate, resolved.concurrency, resolved.polite, resolved.unit) == (3.0, 2, 0, 9)
    both = SoakOptions(scenario="churn", cycles=7, duration_s=2.0).resolved()
    assert (both.cycles, both.duration_s) == (7, 2.0)
    assert SoakOptions(scenario="churn", duration_s=2.0).resolved().cycles is None
