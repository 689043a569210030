"""Half frames: what is sent, what a server may do about them, and servers that hold them."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from everbus.protocol.framing.mbap import MbapFramer
from everbus.soak.scenarios import half_open
from everbus.soak.scenarios.half_open import HalfOpen
from everbus.soak.target import CycleFailedError, FailureKind
from everbus.soak.verdicts import Verdict
from tests.soak.faulty import HoldsHalfFrames, Right, StartsAnew
from tests.soak.judged import EVERBUS, brief, verdicts
from tests.soak.scripted import Scripted, answer

NUMBERS = range(1, 5)
"""Of cycles; some of them drip."""


def held(number: int) -> bytes:
    """What a server that never closes was sent in a short cycle."""
    server = Scripted()
    with server as target, pytest.raises(CycleFailedError, match=r"of a frame are still held after 0\.08 s") as caught:
        HalfOpen().cycle(replace(target, hold_s=0.08), number)
    assert caught.value.kind is FailureKind.HELD
    return server.received


def test_what_is_sent_is_the_beginning_of_a_request_and_some_drip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(half_open, "_DRIP_S", 0.02)
    sent = [held(number) for number in NUMBERS]
    for data in sent:
        framer = MbapFramer()
        assert framer.feed(data) == []
        assert framer.fault is None
        assert framer.pending == len(data) > 0
    dripped = [data for data in sent if len(data) > 12]
    assert 1 <= len(dripped) < len(sent)


def test_a_frame_never_becomes_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(half_open, "_DRIP_S", 0.002)
    monkeypatch.setattr(half_open, "_LONG", half_open._SHORT)
    monkeypatch.setattr(half_open, "_LONGEST_START", 5)
    lengths = [len(held(number)) for number in NUMBERS]
    assert max(lengths) == 11


@pytest.mark.parametrize("sent", [b"", answer(1)])
def test_closing_is_right_whatever_was_said_before(sent: bytes) -> None:
    begin = time.monotonic()
    with Scripted(sent, closes=True) as target:
        HalfOpen().cycle(target, 1)
    assert time.monotonic() - begin < 0.25


@pytest.mark.slow
def test_both_ways() -> None:
    """everbus gives up a frame after 5 s: within these 7, and within the 30 of the default."""
    options = brief("half-open", duration_s=7.4, concurrency=12, hold_s=7.0)
    found = verdicts(options, HoldsHalfFrames, StartsAnew, Right, EVERBUS)
    for kind in (HoldsHalfFrames, StartsAnew):
        convicted = found[kind]
        assert convicted.verdict is Verdict.FAILING
        assert convicted.findings == (
            f"{convicted.failed} of {convicted.cycles} cycles failed ({convicted.failed} held)",
        )
        assert convicted.first_failure.endswith("bytes of a frame are still held after 7 s")
    assert found[HoldsHalfFrames].failed == 12
    assert 1 <= found[StartsAnew].failed < 12
    for acquitted in (Right, EVERBUS):
        assert (found[acquitted].verdict, found[acquitted].findings) == (Verdict.CLEAN, ()), found[acquitted].reason
        assert found[acquitted].cycles >= 12
