"""What a run has shown."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from everbus import __version__
from everbus.soak.scenarios import ALWAYS, SCENARIOS
from everbus.soak.verdicts import Figure, PoliteRecord, ProcessRecord, Verdict

if TYPE_CHECKING:
    from datetime import datetime

    from everbus.soak.asking import ClientRecord
    from everbus.soak.options import SoakOptions

__all__ = ["PartCount", "SoakResult"]


@dataclass(frozen=True, slots=True)
class PartCount:
    """Cycles of one scenario, and how many of them failed."""

    cycles: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SoakResult:
    """What a run has shown.

    Args:
        verdict, reason: the judgement, and why in one line.
        findings: each fact that convicts, with its numbers; none where the server is clean.
        endpoint: URL of the server.
        options: how the run was made, every default resolved.
        started: when, in UTC.
        duration_s: seconds from the first cycle to the last, the pause included.
        interrupted: it was ended from outside before its own end.
        cycles: cycles made, failed ones included, without those that the end cut short.
        failures: how many failed, for every kind of failure.
        first_failure: words about the first one; empty if there was none.
        turned_away: cycles among those that did not fail which the server refused, as it may.
        excused: cycles beside all these that failed while this machine was late: they count neither way.
        by_scenario: the cycles by the scenario that they belong to.
        rate: cycles a second, pauses left out.
        rate_missed: cycles that were due and not started, as those before took all places.
        record: the server's process; None where nobody looked at it.
        polite: what the polite clients saw; None where there were none.
        client: what everbus's own clients counted: theirs, and those of cycles.
        new_listeners: where the process listens at the end and did not at the start, at most 10.
    """

    verdict: Verdict
    reason: str
    findings: tuple[str, ...]
    endpoint: str
    options: SoakOptions
    started: datetime
    duration_s: float
    interrupted: bool
    cycles: int
    failures: dict[str, int]
    first_failure: str
    turned_away: int
    excused: int
    by_scenario: dict[str, PartCount]
    rate: float
    rate_missed: int
    record: ProcessRecord | None
    polite: PoliteRecord | None
    client: ClientRecord
    new_listeners: tuple[str, ...]

    @property
    def failed(self) -> int:
        """Failed cycles of every kind."""
        return sum(self.failures.values())

    @property
    def criterion(self) -> str:
        """What convicts in this scenario, and in any."""
        return f"{SCENARIOS[self.options.scenario].criterion} {ALWAYS}"

    def document(self) -> dict[str, Any]:
        """The same as JSON has it; times in seconds, memory in bytes."""
        return {
            "ok": self.verdict is Verdict.CLEAN,
            "verdict": self.verdict.value,
            "reason": self.reason,
            "criterion": self.criterion,
            "findings": list(self.findings),
            "endpoint": self.endpoint,
            "scenario": self.options.scenario,
            "everbus": __version__,
            "machine": _machine(),
            "started": self.started.isoformat(timespec="seconds"),
            "duration_s": round(self.duration_s, 2),
            "interrupted": self.interrupted,
            "requested": self.options.cycles,
            "concurrency": self.options.concurrency,
            "cycles": self.cycles,
            "failed": self.failed,
            "failures": self.failures,
            "first_failure": self.first_failure,
            "turned_away": self.turned_away,
            "excused": self.excused,
            "by_scenario": {name: asdict(count) for name, count in self.by_scenario.items()},
            "rate": round(self.rate, 1),
            "rate_asked": self.options.rate,
            "rate_missed": self.rate_missed,
            "new_listeners": list(self.new_listeners),
            **_seen(self.record),
            "polite": _polite(self.polite) if self.polite else None,
            "client": asdict(self.client),
            "options": asdict(self.options),
        }


def _machine() -> str:
    """Where the run was made, in a few words."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{platform.system()}, {platform.machine()}, {os.cpu_count()} cores, {python}"


def _seen(record: ProcessRecord | None) -> dict[str, Any]:
    if record is None:
        names = ("pid", "descriptors", "listeners", "memory", "settled_s")
        return {**dict.fromkeys(names), "samples": []}
    return {
        "pid": record.pid,
        "descriptors": _triple(record.descriptors),
        "listeners": _triple(record.listeners),
        "memory": _triple(record.memory),
        "settled_s": round(record.settled_s, 2),
        "samples": [[round(s.at_s, 3), s.cycle, s.descriptors, s.listeners, s.memory_bytes] for s in record.samples],
    }


def _triple(figure: Figure) -> dict[str, int]:
    return {"start": figure.start, "peak": figure.peak, "end": figure.end}


def _polite(record: PoliteRecord) -> dict[str, Any]:
    return {
        "clients": record.clients,
        "requests": record.requests,
        "failed": record.failed,
        "failures": record.failures,
        "first_failure": record.first_failure,
        "excused": record.excused,
        "late": record.late,
        "p50_s": _rounded(record.p50_s),
        "p99_s": _rounded(record.p99_s),
        "worst_s": _rounded(record.worst_s),
        "own_worst_s": _rounded(record.own_worst_s),
        "samples": [
            [round(s.at_s, 2), s.requests, s.failed, _rounded(s.p50_s), _rounded(s.worst_s)] for s in record.samples
        ],
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
