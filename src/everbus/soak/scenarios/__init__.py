"""What a run does to a server, over and over."""

from __future__ import annotations

from typing import Final

from everbus.soak.scenarios.base import ALWAYS, Defaults, Scenario
from everbus.soak.scenarios.churn import Churn, Flood
from everbus.soak.scenarios.garbage import Garbage
from everbus.soak.scenarios.half_open import HalfOpen
from everbus.soak.scenarios.mixed import Mixed
from everbus.soak.scenarios.pipeline import Pipeline
from everbus.soak.scenarios.reset import Reset
from everbus.soak.scenarios.slow_reader import SlowReader

__all__ = ["ALWAYS", "SCENARIOS", "Defaults", "Scenario"]

_SHARES: Final[dict[Scenario, int]] = {
    Churn(): 40,
    Flood(): 40,
    HalfOpen(): 2,
    SlowReader(): 1,
    Garbage(): 40,
    Reset(): 40,
    Pipeline(): 40,
}
"""Those that take seconds come seldom, or all cycles under way would soon be theirs."""

SCENARIOS: Final[dict[str, Scenario]] = {scenario.name: scenario for scenario in (*_SHARES, Mixed(_SHARES))}
"""Every scenario by its name."""
