"""No figure of README.md is written by hand."""

from __future__ import annotations

import json
import re
from typing import Any

from tools import figures


def test_readme_and_picture_are_what_the_kept_results_give() -> None:
    for path, text in figures.rendered().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run make figures"


def test_the_kept_results_show_what_the_readme_claims() -> None:
    soak = figures.kept("soak.json")
    assert soak["runs"]["everbus"]["verdict"] == "clean"
    assert soak["runs"][figures.LEAKY]["verdict"] == "leak"
    compare = figures.kept("compare.json")
    assert compare["answers_to_16_pipelined"]["everbus"] == 16
    assert compare["ratio"] >= 3


def small_soak() -> dict[str, Any]:
    def run(end: int, verdict: str) -> dict[str, Any]:
        figure = {"start": 7, "peak": end, "end": end}
        samples = [[0.0, 0, 7, 1, 1 << 20], [1.0, 512, end, 1, 1 << 20]]
        memory = {"start": 1 << 20, "peak": 3 << 19, "end": 3 << 19}
        return {
            "verdict": verdict,
            "failed": 0,
            "descriptors": figure,
            "listeners": figure,
            "memory": memory,
            "samples": samples,
        }

    runs = {"everbus": run(8, "clean"), figures.LEAKY: run(900, "leak")}
    return {"date": "2026-01-02", "machine": "m", "everbus": "1", "cycles": 512, "runs": runs}


def test_the_picture_draws_every_sample_inside_its_frame() -> None:
    drawn = figures.picture(small_soak())
    points = re.findall(r'points="([^"]+)"', drawn)
    assert len(points) == 2
    for x, y in (point.split(",") for line in points for point in line.split()):
        assert figures.LEFT <= float(x) <= figures.WIDTH - figures.RIGHT
        assert figures.TOP <= float(y) <= figures.HEIGHT - figures.BOTTOM


def test_the_soak_table_has_a_row_for_each_server() -> None:
    table = figures.soak_table(small_soak())
    assert "| everbus | clean | 0 | 7 → 8 → 8 | 7 → 8 → 8 | 1.0 → 1.5 → 1.5 |" in table
    assert "| pymodbus 3.7.4 | leak | 0 | 7 → 900 → 900 |" in table


def test_what_is_kept_is_read_back(tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(figures, "RESULTS", tmp_path / "results")
    figures.keep("x.json", {"a": 1})
    assert figures.kept("x.json") == {"a": 1}
    assert json.loads((tmp_path / "results" / "x.json").read_text()) == {"a": 1}
