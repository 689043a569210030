"""Clients that come and go: one after the other, or more at a time than are taken."""

from __future__ import annotations

from typing import ClassVar

from everbus.protocol.client_session import ClientSession
from everbus.soak.asking import read_once
from everbus.soak.scenarios.base import Defaults, Scenario, ask
from everbus.soak.target import CycleFailedError, FailureKind, Target, TurnedAwayError

__all__ = ["Churn", "Flood"]


class Churn(Scenario):
    """The loop that has killed servers."""

    name: ClassVar[str] = "churn"
    summary: ClassVar[str] = "connect, read one holding register, disconnect"
    criterion: ClassVar[str] = "A connection that is not taken, or a request without its right answer, convicts."
    defaults: ClassVar[Defaults] = Defaults(cycles=2048, concurrency=1, polite=0)

    def cycle(self, target: Target, number: int) -> None:
        read_once(target)


class Flood(Scenario):
    """Newcomers by the clock, whatever the server does: it may turn them away, but not leave them hanging."""

    name: ClassVar[str] = "flood"
    summary: ClassVar[str] = "connect at the rate asked for, read one holding register, disconnect"
    criterion: ClassVar[str] = (
        "A newcomer that is neither answered nor refused by closing its connection within the timeout convicts."
    )
    defaults: ClassVar[Defaults] = Defaults(duration_s=10.0, rate=300.0, concurrency=64)

    def cycle(self, target: Target, number: int) -> None:
        with target.connect() as link:
            session = ClientSession(first_transaction=number & 0xFFFF)
            try:
                ask(target, link, session)
            except CycleFailedError as error:
                if error.kind is not FailureKind.RESET or session.partial:
                    raise
                raise TurnedAwayError from error
