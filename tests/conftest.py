"""Around every test that opens anything: what it leaves behind is a failure."""

from __future__ import annotations

import gc
import inspect
import signal
import time
from collections.abc import AsyncIterator, Iterator
from functools import cache
from io import BytesIO
from pathlib import Path

import pytest

from everbus.testing import no_leaked_tasks, no_leaks, snapshot
from everbus.testing.leaks import GRACE_S

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a background job: our children would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

_PURE = ("protocol", "service", "client", "maps", "conformance", "fuzz", "contract")
_SLOW = ("fuzz", "interop")
_PATIENT = ("bench", "fuzz", "interop", "soak")
_DRAWING = frozenset({"test_drawing.py", "test_figures.py", "test_plots.py", "test_report.py", "test_rounds.py"})
_TESTS = Path(__file__).parent


def _opens_nothing(item: pytest.Item) -> bool:
    return item.path.relative_to(_TESTS).parts[0] in _PURE


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(_TESTS).parts[0]
        if folder in _SLOW:
            item.add_marker(pytest.mark.slow)
        if folder in _PATIENT and item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.patient)
        if _opens_nothing(item):
            continue
        wanted = ["leaves_nothing"]
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            wanted.append("leaves_no_task")
        for name in reversed(wanted):
            item.fixturenames.insert(0, name)  # type: ignore[attr-defined]  # first in, last out


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.path.name in _DRAWING:
        _open_fonts()


@cache
def _open_fonts() -> None:
    """matplotlib keeps the files of its fonts open: it opens them before anybody looks at what is open."""
    from matplotlib.figure import Figure  # noqa: PLC0415  most tests draw nothing

    figure = Figure()
    figure.text(0, 0, "in bold", weight="bold")
    figure.text(0, 0, "and $x^1$")
    figure.savefig(BytesIO(), format="png")


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # what stands now is neither collected nor searched again: each check is cheap


@pytest.fixture
def leaves_nothing() -> Iterator[None]:
    gc.collect()
    gc.freeze()  # nor is what came since: without this the two looks are a third of all the time
    with no_leaks():
        yield


@pytest.fixture
async def leaves_no_task() -> AsyncIterator[None]:
    async with no_leaked_tasks():
        yield


@pytest.fixture(scope="session", autouse=True)
def nothing_appears_later() -> Iterator[None]:
    """Some leaks show a second after their cause: look once more when all tests are over."""
    before = snapshot()
    yield
    time.sleep(GRACE_S)
    leaked = [line for line in snapshot().growth_since(before) if line.startswith(("listens", "listening", "tcp"))]
    assert not leaked, f"after all tests: {leaked}"
