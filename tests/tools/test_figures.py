"""No figure of README.md is written by hand."""

from __future__ import annotations

from typing import Any

import pytest

from bench.reach import PROMISES
from tools import figures
from tools.environments import PYMODBUS_LEAKY


def test_readme_and_picture_are_what_the_kept_results_give() -> None:
    for path, content in figures.rendered().items():
        assert path.read_bytes() == content, f"{path.name}: run python -m tools.figures --write"


def test_the_kept_runs_show_what_the_readme_claims() -> None:
    churn = figures.kept(figures.RESULTS / "churn.json")
    assert churn["runs"]["everbus"]["verdict"] == "clean"
    assert churn["runs"][PYMODBUS_LEAKY]["verdict"] == "leak"
    soak = figures.kept(figures.LONG_SOAK)
    assert (soak["verdict"], soak["options"]["scenario"]) == ("clean", "mixed")
    assert soak["duration_s"] >= 600


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.what)
def test_the_kept_bench_shows_what_is_promised(promise: Any) -> None:
    document = figures.kept(figures.BENCH)
    assert promise.verdict(document) in {"reached", "aim reached"}, promise.value(document)


def test_the_churn_table_has_a_row_for_each_server() -> None:
    def run(end: int, verdict: str) -> dict[str, Any]:
        figure = {"start": 7, "peak": end, "end": end}
        memory = {"start": 1 << 20, "peak": 3 << 19, "end": 3 << 19}
        return {"verdict": verdict, "failed": 0, "descriptors": figure, "listeners": figure, "memory": memory}

    runs = {"everbus": run(8, "clean"), PYMODBUS_LEAKY: run(900, "leak")}
    runs["everbus"]["options"] = {"pause_s": 2.5}
    about = {"date": "2026-01-02", "machine": "m", "everbus": "1", "cycles": 512}
    table = figures.churn_table({**about, "runs": runs})
    assert "with a pause of 2.5 s" in table
    assert "| everbus | clean | 0 | 7 → 8 → 8 | 7 → 8 → 8 | 1.0 → 1.5 → 1.5 |" in table
    assert "| pymodbus 3.7.4 | leak | 0 | 7 → 900 → 900 |" in table
