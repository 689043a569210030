"""Our own client gets what the plan says: the same steps, before any foreign stack takes them."""

from __future__ import annotations

import pytest

from tests.interop.ours import KINDS, answers, run
from tests.interop.plan import CODES, PLAN, steps_for
from tests.interop.stacks import page
from tests.interop.support import Device
from tools.environments import ROOT

pytestmark = pytest.mark.interop


def test_our_client_gets_every_answer_of_the_plan(device: Device) -> None:
    steps = steps_for(KINDS, refuses=KINDS)
    assert run(device.port, steps, device.fresh_unit()) == answers(steps)


def test_every_kind_of_the_plan_is_asked() -> None:
    assert {step.kind for step in PLAN} == set(CODES)


def test_the_page_of_stacks_is_true() -> None:
    assert (ROOT / "docs" / "interop.md").read_text(encoding="utf-8") == page(), "python -m tests.interop.stacks"
