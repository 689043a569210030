"""The server that foreign clients talk to: one for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.support import Device, everbus_serve


@pytest.fixture(scope="session")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    """``everbus serve``, its units filled with what the plan says."""
    with everbus_serve(tmp_path_factory.mktemp("interop")) as started:
        yield started
