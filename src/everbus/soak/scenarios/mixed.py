"""Everything at once, at random."""

from __future__ import annotations

from itertools import accumulate
from typing import ClassVar

from everbus.soak.scenarios.base import Defaults, Scenario, chance_of
from everbus.soak.target import Target

__all__ = ["Mixed"]


class Mixed(Scenario):
    """Each cycle is one of another scenario.

    Args:
        shares: the scenarios and how often each comes, relative to the others.
    """

    name: ClassVar[str] = "mixed"
    summary: ClassVar[str] = "all of the others at random"
    criterion: ClassVar[str] = (
        "Whatever convicts in one of the others convicts here; the bound of the server's memory is 64 MiB above "
        "the start, as more goes on at a time."
    )
    defaults: ClassVar[Defaults] = Defaults(duration_s=60.0, rate=200.0, concurrency=48)
    most_growth_bytes: ClassVar[int | None] = 64 << 20
    late_s: ClassVar[float | None] = 0.25

    def __init__(self, shares: dict[Scenario, int]) -> None:
        self._scenarios = list(shares)
        self._bounds = list(accumulate(shares.values()))

    def part(self, number: int) -> Scenario:
        return chance_of(self.name, number).choices(self._scenarios, cum_weights=self._bounds)[0]

    def cycle(self, target: Target, number: int) -> None:
        self.part(number).cycle(target, number)
