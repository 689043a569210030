"""How much the state machines look at: little and always the same in the tests, more and anew in ``make fuzz``."""

from __future__ import annotations

import os
from typing import Final

from hypothesis import HealthCheck, settings

__all__ = ["FACTOR", "budget"]

FACTOR: Final = int(os.environ.get("EVERBUS_FUZZ_FACTOR", "1"))
"""How many times the examples of the tests; above 1 they are other examples each time."""


def budget(examples: int, steps: int) -> settings:
    """So many examples of at most so many steps, times the factor; no deadline, as machines are shared."""
    return settings(
        max_examples=examples * FACTOR,
        stateful_step_count=steps,
        deadline=None,
        derandomize=FACTOR == 1,
        suppress_health_check=list(HealthCheck),
    )
