"""For tests that draw."""

from __future__ import annotations

from functools import cache

import pytest

from everbus.soak.plots import plot_run
from tests.soak.documents import document

_DRAWING = frozenset({"test_drawing.py", "test_plots.py", "test_report.py"})


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.path.name in _DRAWING:
        _open_fonts()


@cache
def _open_fonts() -> None:
    """matplotlib keeps the files of its fonts open: it opens them before anybody looks at what is open."""
    plot_run(document(), "png")
