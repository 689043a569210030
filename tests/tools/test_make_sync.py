from __future__ import annotations

import pytest

from tools import make_sync


def test_the_twins_are_what_would_be_made() -> None:
    assert make_sync.main(["--check"]) == 0


def test_a_twin_that_differs_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(make_sync, "to_sync", lambda source: source)
    assert make_sync.main(["--check"]) == 1
    assert "src/everbus/sync/unit.py is not what" in capsys.readouterr().out


def test_waiting_goes_and_what_is_for_event_loops_alone_too() -> None:
    source = '''"""A thing.

``sync/client.py`` is made from this file by ``tools/make_sync.py``.
"""

from collections.abc import Callable, Sequence

from everbus.aio.driver import Driver


class AsyncThing:
    async def __aenter__(self) -> "AsyncThing":
        async with self.lock:
            return await self.made(Driver, Sequence)

    # async only
    def listen(self, callback: Callable[[], None]) -> None:
        await self.never

    # end of async only
    def last(self) -> None: ...
'''
    assert (
        make_sync.to_sync(source)
        == '''"""A thing.

Made from ``aio/client.py`` by ``tools/make_sync.py``: change that one.
"""

from collections.abc import Sequence

from everbus.sync.driver import Driver


class Thing:
    def __enter__(self) -> "Thing":
        with self.lock:
            return self.made(Driver, Sequence)

    def last(self) -> None: ...
'''
    )
