"""The public API is the recorded one."""

from __future__ import annotations

from tools import public_api


def test_public_api_is_as_recorded() -> None:
    recorded = public_api.SNAPSHOT.read_text(encoding="utf-8")
    difference = public_api.compare(recorded, public_api.describe("everbus"))
    assert not difference, f"{difference}\nIf this is meant: python tools/public_api.py --write"
