"""Pictures of runs, read as the SVG that they are."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import pytest

from everbus.errors import ConfigurationError
from everbus.soak import plots
from everbus.soak.plots import plot_comparison, plot_run, write_plot
from tests.soak.documents import conviction, document, polite, unseen

if TYPE_CHECKING:
    from pathlib import Path


def texts(svg: bytes) -> list[str]:
    """The texts in a picture, in the order in which they were drawn."""
    return [
        "".join(element.itertext()).strip()
        for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    ]


def test_a_picture_of_everything() -> None:
    svg = plot_run(conviction(), "svg")
    shown = texts(svg)
    assert "churn on tcp://127.0.0.1:5020: leak" in shown
    assert {
        "descriptors: 8 → 2,008, peak 2,008",
        "listening sockets: 1 → 1,001, peak 1,001",
        "memory: 25.0 → 26.6 MiB, peak 26.6",
        "answered cycles a second",
        "polite clients: median 0.8 ms",
        "slowest 22.0 ms",
        "polite requests that failed: 3 of 400",
        "time, s (grey: after the last cycle)",
    } <= set(shown)
    assert shown.count("10") == 2, "the time is written below the last diagram only; the other is 10 ms"
    assert svg == plot_run(conviction(), "svg")


def test_without_a_process_there_are_the_polite_clients() -> None:
    shown = texts(plot_run(unseen(polite=polite(300)), "svg"))
    assert "polite clients: median 0.8 ms" in shown
    assert "time, min" in shown
    assert not any("descriptors:" in text for text in shown)


def test_where_nobody_looked_the_picture_says_so() -> None:
    assert "nobody looked at the server's process: there are no samples" in texts(plot_run(unseen(), "svg"))


def test_one_sample_and_polite_clients_without_an_answer() -> None:
    silent = polite(1, failed_at=0) | {"p50_s": None, "p99_s": None, "worst_s": None}
    shown = texts(plot_run(document(samples=document()["samples"][:1], polite=silent), "svg"))
    assert "polite clients: median" in shown


def test_text_from_outside_is_text() -> None:
    svg = plot_run(unseen(endpoint="unix:///tmp/$x^2$<script>&\x07", reason="clean: \\alpha_1 $$"), "svg")
    shown = texts(svg)
    assert "churn on unix:///tmp/$x^2$<script>&\ufffd: clean" in shown
    assert "\\alpha_1 $$" in shown


def test_the_files_name_says_what_is_written(tmp_path: Path) -> None:
    write_plot(document(), tmp_path / "a.PNG")
    write_plot(unseen(), tmp_path / "a.svg")
    assert (tmp_path / "a.PNG").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "a.svg").read_bytes().startswith(b"<?xml")
    with pytest.raises(ConfigurationError):
        write_plot(document(), tmp_path / "a.pdf")


@pytest.mark.parametrize(
    ("end_s", "shown"), [(0.0, (1.0, 1, "s")), (179.0, (179.0, 1, "s")), (600.0, (600.0, 60, "min"))]
)
def test_units_of_time(end_s: float, shown: tuple[float, float, str]) -> None:
    assert plots._time_axis(document(samples=[[end_s, 0, 0, 0, 0]])) == shown


def test_more_than_hours_are_hours() -> None:
    late = {"samples": [[10**6, 0, 0, None, None]]}
    assert plots._time_axis(document(polite=late)) == (10**6, 3600, "h")


@pytest.mark.parametrize(("top", "step"), [(1, 0.2), (4.6, 0.5), (10, 2), (60, 10), (99, 10), (0.03, 0.005)])
def test_ticks_are_round(top: float, step: float) -> None:
    assert plots._step(top) == pytest.approx(step)


def test_rates_add_up_to_the_cycles() -> None:
    samples = [[0.0, 0], [1.0, 100], [1.5, 200], [3.5, 200], [4.0, 300], *([4.0 + n, 300] for n in range(1, 9))]
    edges, rates = plots._rates(samples)
    assert len(edges) == len(rates) + 1 == 4
    assert sum(rate * (end - start) for rate, (start, end) in zip(rates, pairwise(edges), strict=True)) == 300
    assert rates == [75.0, 0.0, 0.0]


def test_a_comparison_names_its_lines() -> None:
    other: dict[str, Any] = conviction()
    shown = texts(plot_comparison({"everbus": document(), "other": other, "unseen": unseen()}, "svg", "title"))
    assert "title" in shown
    assert [text for text in shown if "at the end" in text or text in {"everbus", "other", "unseen"}] == [
        "everbus",
        "8 at the end, clean",
        "other",
        "2,008 at the end, leak",
    ]


def test_a_comparison_of_nothing_is_a_picture() -> None:
    assert "open descriptors" in texts(plot_comparison({}, "svg"))


def test_lines_differ_in_colour_and_in_dashes() -> None:
    styles = plots._styles(16)
    assert len(set(styles)) == 16
    for (colour, dashes), (next_colour, next_dashes) in pairwise(styles[:4]):
        assert colour != next_colour
        assert dashes != next_dashes


@pytest.mark.parametrize("wanted", [[0.5], [0.0, 1.0], [0.0, 0.0, 0.9, 0.0], [1.0, 1.0, 1.0], [0.4, 0.41, 0.2, 0.39]])
def test_labels_do_not_overlap(wanted: list[float]) -> None:
    places = plots._apart(wanted, 0.2)
    assert all(0.1 - 1e-9 <= place <= 0.9 + 1e-9 for place in places)
    assert all(after - before >= 0.2 - 1e-9 for before, after in pairwise(sorted(places)))
    assert sorted(range(len(wanted)), key=wanted.__getitem__) == sorted(range(len(wanted)), key=places.__getitem__)
