"""How a scenario is run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from everbus.errors import ConfigurationError
from everbus.soak.scenarios import SCENARIOS

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SoakOptions"]

_RANGES: Final[Mapping[str, tuple[float, float]]] = {
    "cycles": (1, 10**9),
    "duration_s": (0.1, 10**7),
    "rate": (0.01, 100_000),
    "concurrency": (1, 1000),
    "polite": (0, 100),
    "hold_s": (0.1, 3600),
    "unit": (0, 255),
    "timeout_s": (0.001, 3600),
    "pause_at": (0, 10**9),
    "pause_s": (0, 86_400),
    "settle_s": (0, 3600),
    "grace_s": (0, 3600),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SoakOptions:
    """How to run a scenario; None, where nothing else is said: as the scenario does by default.

    Args:
        scenario: its name, one of ``SCENARIOS``.
        cycles: how often, 1 or more. With ``duration_s`` too, what comes first ends the run; with
            neither, the scenario's own default.
        duration_s: how long, 0.1 or more. What is under way then is cut short, and judges nobody.
        rate: cycles started a second, by the clock, whatever becomes of those before; where all
            ``concurrency`` of them are under way the rate is missed, and that is counted.
        concurrency: cycles at a time, 1..1000; each has one connection, one after the other.
        polite: clients that do nothing wrong meanwhile, 0..100: one read every 50 ms on a connection
            that stays.
        hold_s: how long a server may hold what it should have given up; ``slow-reader`` stays for
            a third of it.
        unit: the unit that is asked, 0..255.
        timeout_s: for each connection and for each answer.
        pause_at: after this cycle comes a pause; None: after half of ``cycles``, where there is
            such a number; 0, or ``cycles`` and more: no pause.
        pause_s: how long: what a server does a second later shows only if one waits.
        settle_s: wait after the last cycle before the end figures are read.
        grace_s: wait at most so long for descriptors to come down to what they were at the start.

    Raises:
        ConfigurationError: a value is outside its range, or the run would end before ``hold_s``
            where the scenario judges by that.
    """

    scenario: str = "churn"
    cycles: int | None = None
    duration_s: float | None = None
    rate: float | None = None
    concurrency: int | None = None
    polite: int | None = None
    hold_s: float = 30.0
    unit: int = 1
    timeout_s: float = 3.0
    pause_at: int | None = None
    pause_s: float = 1.5
    settle_s: float = 2.5
    grace_s: float = 5.0

    def __post_init__(self) -> None:
        if self.scenario not in SCENARIOS:
            raise ConfigurationError(f"there is no scenario {self.scenario!r}, but {', '.join(SCENARIOS)}")
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ConfigurationError(f"{name} is a number of {low:,} to {high:,}, not {value}")
        judged_s = SCENARIOS[self.scenario].held_share * self.hold_s
        if judged_s and self.duration_s is not None and self.duration_s <= judged_s:
            raise ConfigurationError(
                f"{self.scenario} judges after {judged_s:g} s (hold_s is {self.hold_s:g}), so duration_s must be more "
                f"than that, not {self.duration_s:g}"
            )

    def resolved(self) -> SoakOptions:
        """The same with the scenario's own defaults in the place of each None that means one."""
        own = SCENARIOS[self.scenario].defaults
        ends = self if self.cycles is not None or self.duration_s is not None else own
        return replace(
            self,
            cycles=ends.cycles,
            duration_s=ends.duration_s,
            rate=own.rate if self.rate is None else self.rate,
            concurrency=own.concurrency if self.concurrency is None else self.concurrency,
            polite=own.polite if self.polite is None else self.polite,
        )
