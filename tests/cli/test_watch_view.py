"""What a terminal shows of samples."""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from time import monotonic

import pytest
from rich.console import Console

from everbus.cli.watch_view import LiveView
from everbus.cli.watched import Sample, Watched
from everbus.errors import ConnectError, ExceptionResponseError, ModbusError
from everbus.maps.datatypes import Value
from everbus.maps.notation import parse_point
from everbus.maps.planner import Reading

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
MISSING = ExceptionResponseError(2, 3, "exception 02")
GONE = ConnectError("nobody is there")


def seen(points: str, *samples: Sequence[Value | ModbusError]) -> list[Watched]:
    """After these samples, a second apart from 100 s on."""
    watched = [Watched(parse_point(text)) for text in points.split()]
    for second, values in enumerate(samples):
        readings = [
            Reading(one.point, error=value) if isinstance(value, ModbusError) else Reading(one.point, value)
            for one, value in zip(watched, values, strict=True)
        ]
        sample = Sample(second + 1, 0, NOON + timedelta(seconds=second), 100.0 + second, readings)
        for one, reading in zip(watched, readings, strict=True):
            one.take(reading, sample)
    return watched


def terminal(width: int = 100, height: int = 24, encoding: str = "utf-8") -> Console:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    return Console(file=stream, width=width, height=height, highlight=False)


def shown(watched: list[Watched], *, now_s: float = 103.0, plot: bool = False, console: Console) -> list[str]:
    view = LiveView(watched, "every 1 s, unit 1 of tcp://192.0.2.7:502", plot=plot, console=console)
    with console.capture() as capture:
        console.print(view.rendered(now_s))
    return [line.rstrip() for line in capture.get().splitlines()]


def test_a_row_a_point() -> None:
    lines = shown(seen("h@0 i@4/f32:CDAB c@1", (1, 0.5, False), (8, 2.5, True)), console=terminal())
    assert [line.split() for line in lines] == [
        ["point", "reference", "type", "value", "trend", "min", "max", "age", "quality"],
        ["h@0", "400001", "u16", "8", "▁█", "1", "8", "2", "s", "GOOD"],
        ["i@4/f32:CDAB", "300005", "f32", "2.5", "▁█", "0.5", "2.5", "2", "s", "GOOD"],
        ["c@1", "000002", "bool", "1", "▁█", "0", "1", "2", "s", "GOOD"],
        ["every", "1", "s,", "unit", "1", "of", "tcp://192.0.2.7:502"],
    ]


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (100, "point reference type value trend min max age quality"),
        (56, "point value trend min max age quality"),
        (40, "point value trend age quality"),
        (28, "point value quality"),
        (14, "point value"),
    ],
)
def test_a_narrow_terminal_shows_what_matters_most(width: int, columns: str) -> None:
    lines = shown(seen("h@0 h@100", (1, 50_000), (2, 50_001)), console=terminal(width))
    assert lines[0].split() == columns.split()
    place = columns.split().index("value")
    assert [line.split()[place] for line in lines[1:3]] == ["2", "50001"]
    assert max(map(len, lines)) <= width


def test_a_low_terminal_shows_the_first_points_and_how_many_more() -> None:
    watched = seen(" ".join(f"h@{address}" for address in range(30)), tuple(range(30)))
    lines = shown(watched, console=terminal(height=10))
    assert len(lines) == 9
    assert [line.split()[0] for line in lines[:-2]] == ["point", *(f"h@{address}" for address in range(6))]
    assert lines[-2] == "and 24 more points"


def test_what_fails_keeps_its_last_value_and_says_why_and_since_when() -> None:
    watched = seen("h@0 h@1 h@9", (5, 6, MISSING), (GONE, 7, GONE), (GONE, 8, GONE))
    _, first, good, missing, error, _ = shown(watched, now_s=107.0, console=terminal())
    assert first.split() == ["h@0", "400001", "u16", "5", "▁", "5", "5", "7", "s", "OFFLINE"]
    assert missing.split() == ["h@9", "400010", "u16", "OFFLINE"]
    assert good.endswith("5 s  GOOD")
    since = (NOON + timedelta(seconds=1)).astimezone()
    assert error == f"h@0, h@9: since {since:%H:%M:%S}: nobody is there"


def test_a_connection_that_is_lost_is_everybodys_error() -> None:
    lines = shown(seen("h@0 h@1", (GONE, GONE)), console=terminal())
    assert lines[-2].startswith("all points: since ")


def test_errors_do_not_fill_the_terminal() -> None:
    errors = [ModbusError(f"error {number}") for number in range(9)]
    watched = seen(" ".join(f"h@{number}" for number in range(9)), errors)
    lines = shown(watched, console=terminal())
    assert lines[-2] == "and 6 more errors"
    many = seen(" ".join(f"h@{number}" for number in range(9)), (GONE,) * 8 + (1,))
    assert shown(many, console=terminal())[-2].startswith("h@0, h@1, h@2 and 5 more: since ")


def test_what_a_device_says_neither_drives_the_terminal_nor_makes_the_table_burst() -> None:
    watched = seen("h@0:20/string h@20:2/string h@22/f32", ("[red]\x1b[2J" + 40 * "x", "", None))
    lines = shown(watched, console=terminal())
    assert "\x1b[2J" not in "\n".join(lines)
    assert r"[red]\x1b[2J" in lines[1]
    assert lines[1].endswith("GOOD")
    assert lines[2].split()[3:] == ["3", "s", "GOOD"]
    assert "not available" in lines[3]
    assert lines[3].endswith("NO_DATA")


def test_where_the_terminal_has_no_blocks_there_is_no_trend_and_no_plot() -> None:
    lines = shown(seen("h@0", (1,), (8,)), plot=True, console=terminal(encoding="ascii"))
    assert "trend" not in lines[0]
    assert len(lines) == 3
    assert "\n".join(lines).isascii()


# --- the plot ----------------------------------------------------------------------------------


def test_a_plot_below_the_table() -> None:
    lines = shown(seen("h@0 h@1", (0, 20), (1, 10), (4, 20)), plot=True, console=terminal(60, 20))
    assert lines[0].startswith("point ")
    assert lines[3] == "━ h@0  ━ h@1"
    assert lines[4].lstrip().startswith("┌")
    assert lines[5].startswith("20┤")
    assert lines[-2].split() == ["-2.0", "s", "-1.0", "s", "now"]
    assert lines[-1].startswith("every 1 s")
    assert len(lines) == 19


def test_a_plot_in_place_of_the_table_where_there_is_no_room_for_both() -> None:
    lines = shown(seen("h@0 h@1", (0, 20), (1, 10)), plot=True, console=terminal(40, 12))
    assert lines[0] == "━ h@0  ━ h@1"
    assert len(lines) == 11


@pytest.mark.parametrize(
    "samples",
    [
        ((GONE,),),
        (("text",), (None,)),
        ((5,),),
        ((5,), (GONE,), (6,), (GONE,)),
        ((0.0,), (1e-310,)),
        ((1e15,), (1e15 + 1,)),
        ((1e289,), (-1e289,)),
        ((float("inf"),), (1,)),
        ((10**400,), (3,)),
    ],
    ids=str,
)
def test_whatever_the_values_are_they_are_drawn_without_a_word(
    samples: tuple[tuple[Value | ModbusError, ...], ...], capfd: pytest.CaptureFixture[str]
) -> None:
    lines = shown(seen("h@0/f64", *samples), plot=True, console=terminal())
    assert any("┌" in line for line in lines)
    assert capfd.readouterr() == ("", "")


def test_a_line_is_broken_where_nothing_was_read() -> None:
    def dots(*samples: Sequence[Value | ModbusError]) -> int:
        lines = shown(seen("h@0", *samples), plot=True, console=terminal())
        return sum("⠀" < letter <= "⣿" for line in lines for letter in line)

    assert dots((1,), (1,), (GONE,), (1,), (1,)) < dots((1,), (1,), (1,), (1,), (1,)) - 20


# --- the live display -----------------------------------------------------------------------------


def test_a_sample_is_shown_and_grows_old_while_the_next_is_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    clock = [monotonic()]

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr("everbus.cli.watch_view.sleep", sleep)
    monkeypatch.setattr("everbus.cli.watch_view.monotonic", lambda: clock[0])
    console = terminal()
    one = Watched(parse_point("h@0"))
    sample = Sample(1, 2, NOON, clock[0], [Reading(one.point, 5)])
    one.take(sample.readings[0], sample)
    with LiveView([one], "every 60 s", console=console) as view:
        assert view.show(sample)
        view.wait_until(clock[0] + 2.5)
        drawn = view.rendered(clock[0])
    with console.capture() as capture:
        console.print(drawn)
    assert [round(seconds, 3) for seconds in waited] == [1.0, 1.0, 0.5]
    assert " 2 s " in capture.get()
    assert "sample 1, 2 skipped, every 60 s" in capture.get()
    console.file.flush()
