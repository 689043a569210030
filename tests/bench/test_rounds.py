from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.__main__ import keep
from bench.contenders import Server
from bench.rounds import _Load, interleaved
from tests.bench.documents import made_up

ONE, TWO = Server("one", 1, 1), Server("two", 2, 2)


def test_servers_take_turns_and_medians_are_kept() -> None:
    asked: list[str] = []
    rates = {"one": [1.0, 9.0, 2.0], "two": [30.0, 10.0, 20.0]}

    def run(server: Server) -> dict[str, float]:
        asked.append(server.name)
        return {"per_s": rates[server.name][asked.count(server.name) - 1], "lost": 0.0}

    result = interleaved(3, [ONE, TWO], run)
    assert asked == ["one", "two"] * 3
    assert (result["one"]["median"]["per_s"], result["two"]["median"]["per_s"]) == (2.0, 20.0)
    assert [one["per_s"] for one in result["two"]["rounds"]] == [30.0, 10.0, 20.0]


def test_one_round_with_a_loss_is_a_loss() -> None:
    lost = iter([0.0, 7.0, 0.0])
    result = interleaved(3, [ONE], lambda _: {"lost": next(lost)})
    assert result["one"]["median"]["lost"] == 7.0


def test_a_round_is_its_rate_and_what_the_server_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "load"
    program.write_text('#!/bin/sh\necho \'{"answered": 900, "seconds": 0.9}\'\n')
    program.chmod(0o755)
    used = iter([10.0, 10.5])

    class Busy(Server):
        def cpu_s(self) -> float:
            return next(used)

        def memory_bytes(self) -> int:
            return 123

    load: Any = _Load(None)
    monkeypatch.setattr(load, "_command", [str(program)])
    result = load.run(Busy("busy", 1, 1), ["closed", "1.0"])
    assert result["per_s"] == pytest.approx(1000)
    assert result["server_cpu_us"] == pytest.approx(500)  # half a second for 1000 requests, the warming up included
    assert result["memory_bytes"] == 123


@pytest.mark.slow
def test_what_is_kept_can_be_looked_at(tmp_path: Path) -> None:
    keep(made_up(), tmp_path)
    assert json.loads((tmp_path / "bench.json").read_text()) == made_up()
    assert (tmp_path / "bench.md").read_text().startswith("# everbus beside its peers")
    for name in ("rates.svg", "latency.svg", "memory.svg"):
        assert (tmp_path / name).read_text().rstrip().endswith("</svg>")
