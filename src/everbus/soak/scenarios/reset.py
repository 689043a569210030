"""Clients that vanish at a random moment."""

from __future__ import annotations

import random
import time
from typing import ClassVar

from everbus.protocol.client_session import ClientSession
from everbus.soak.scenarios.base import READ, Defaults, Scenario, ask, chance_of
from everbus.soak.target import Link, Target, no_answer

__all__ = ["Reset"]


class Reset(Scenario):
    """A reset before the request, in the middle of it, before the answer is read, or after."""

    name: ClassVar[str] = "reset"
    summary: ClassVar[str] = "connect and reset the connection: before, within or after a request, or after its answer"
    criterion: ClassVar[str] = "A connection that is not taken, or a right answer that does not come, convicts."
    defaults: ClassVar[Defaults] = Defaults(cycles=2000, rate=500.0)

    def cycle(self, target: Target, number: int) -> None:
        chance = chance_of(self.name, number)
        with target.connect() as link:
            try:
                _act(target, link, number, chance)
            except OSError as error:
                raise no_answer(error) from error
            link.reset()


def _act(target: Target, link: Link, number: int, chance: random.Random) -> None:
    point = chance.choice(("before", "within", "asked", "answered"))
    session = ClientSession(first_transaction=number)
    if point == "answered":
        ask(target, link, session)
    elif point != "before":
        _, frame = session.submit(target.unit, READ)
        cut = chance.randrange(1, len(frame)) if point == "within" else len(frame)
        link.send(frame[:cut], time.monotonic() + target.timeout_s)
