"""What the pictures have in common: their style, a sheet of which places are inches, and the way to a file.

matplotlib (extra ``report``) is loaded when something is drawn, and its own settings stay as they are.
"""

from __future__ import annotations

import io
import os
import textwrap
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from everbus.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

__all__ = [
    "BLUE",
    "GREEN",
    "INK",
    "ORANGE",
    "PURPLE",
    "RED",
    "axes_at",
    "count_ticks",
    "drawing",
    "ensure_drawable",
    "ensure_writable",
    "picture_kind",
    "plain",
    "rendered",
    "sheet",
]

BLUE, ORANGE, GREEN, PURPLE, RED = "#0072b2", "#b35900", "#00785a", "#a8417f", "#b3261e"
INK: Final = "#222222"

_STYLE: Final = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10.0,
    "grid.color": "#dddddd",
    "legend.borderaxespad": 0.2,
    "legend.borderpad": 0.0,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",
    "svg.hashsalt": "everbus",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
}

# Inches, 96 CSS pixels each.
_WIDTH, _LEFT, _RIGHT, _MARGIN, _FOOT = 8.0, 0.95, 0.25, 0.2, 0.6
_TITLE_LINE, _LINE = 0.27, 0.21
_TITLE_CHARACTERS, _LINE_CHARACTERS = 60, 90
_DPI: Final = 144


def picture_kind(path: Path) -> str:
    """``png`` or ``svg``, by the end of a file's name.

    Raises:
        ConfigurationError: it is another one.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in {"png", "svg"}:
        raise ConfigurationError(f"{plain(path)}: a picture is a .png or an .svg file")
    return kind


def ensure_drawable() -> None:
    """Load matplotlib.

    Raises:
        ConfigurationError: it is not installed.
    """
    try:
        import_module("matplotlib.figure")
    except ImportError as error:
        raise ConfigurationError("pictures need matplotlib: pip install 'everbus[report]'") from error


def ensure_writable(path: Path) -> None:
    """See to it that a file can be written later; what it holds stays as it is.

    Raises:
        ConfigurationError: it cannot.
    """
    existed = os.path.lexists(path)
    try:
        with path.open("ab"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise ConfigurationError(f"{plain(path)} cannot be written: {error.strerror}") from error


def plain(text: object) -> str:
    """Text from outside without what is not printable: control characters, halves of surrogate pairs."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in str(text))


@contextmanager
def drawing() -> Iterator[None]:
    """The style of all pictures, whatever the user's settings are; it is needed until ``rendered``.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    ensure_drawable()
    matplotlib = import_module("matplotlib")
    defaults = {key: value for key, value in matplotlib.rcParamsDefault.items() if not key.startswith("backend")}
    with matplotlib.rc_context(defaults | _STYLE):
        yield


def sheet(body_height: float, title: str, below: str = "", colour: str = INK) -> tuple[Figure, float]:
    """A sheet with its title.

    Args:
        body_height: inches that the rest needs.
        title: as it is, without markup; wrapped, like the text ``below`` it.
        colour: of the title.

    Returns:
        The figure, and how many inches from its top the rest begins.
    """
    title_lines = textwrap.wrap(plain(title), _TITLE_CHARACTERS)
    lines = textwrap.wrap(plain(below), _LINE_CHARACTERS)
    title_end = _MARGIN + _TITLE_LINE * len(title_lines)
    top = title_end + _LINE * len(lines)
    height = top + body_height + _FOOT
    figure: Figure = import_module("matplotlib.figure").Figure(figsize=(_WIDTH, height), facecolor="white")
    left = _MARGIN / _WIDTH
    figure.text(left, 1 - _MARGIN / height, "\n".join(title_lines), color=colour, size=13, weight="bold", va="top")
    figure.text(left, 1 - title_end / height, "\n".join(lines), va="top")
    return figure, top


def axes_at(figure: Figure, top: float, height: float, right: float = _RIGHT) -> Axes:
    """New axes, so many inches below the top of the sheet, so many inches high, and so far from its right side."""
    whole = figure.get_figheight()
    return figure.add_axes(
        (_LEFT / _WIDTH, 1 - (top + height) / whole, (_WIDTH - _LEFT - right) / _WIDTH, height / whole)
    )


def count_ticks(axis: Axis, most: int) -> None:
    """At most so many ticks at whole numbers, with separators of thousands."""
    ticker = import_module("matplotlib.ticker")
    axis.set_major_locator(ticker.MaxNLocator(most, integer=True, min_n_ticks=1))
    axis.set_major_formatter("{x:,.0f}")


def rendered(figure: Figure, kind: str) -> bytes:
    """The file's content; the same figure gives the same bytes.

    Args:
        figure: what to render.
        kind: ``png`` or ``svg``.
    """
    metadata: dict[str, Any] = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    content = io.BytesIO()
    figure.savefig(content, format=kind, dpi=_DPI, metadata=metadata)
    return content.getvalue()
