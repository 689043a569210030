"""What every scenario has, and what several of them do."""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from everbus.errors import ExceptionResponseError
from everbus.protocol.pdu.registers import ReadHoldingRegistersRequest
from everbus.soak.target import CycleFailedError, FailureKind, no_answer

if TYPE_CHECKING:
    from everbus.errors import ModbusError
    from everbus.protocol.client_session import ClientSession
    from everbus.soak.target import Link, Target

__all__ = ["ALWAYS", "READ", "Defaults", "Scenario", "ask", "chance_of"]

READ = ReadHoldingRegistersRequest(0, 1)
"""Function code 03, one register at address 0: what every server can answer, with data or an exception."""

ALWAYS = (
    "In any scenario: descriptors, listening sockets or memory that grow with the cycles, and the end of the "
    "process convict, and so does a polite client that is not answered, or not rightly, or loses its connection."
)
"""What convicts whatever a scenario does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """How a scenario is run where nothing else is said.

    Args:
        cycles, duration_s: what ends it: so many cycles, or so many seconds; one of them is None.
        rate: cycles started a second; None: as fast as they go.
        concurrency: cycles at a time.
        polite: polite clients beside it.
    """

    cycles: int | None = None
    duration_s: float | None = None
    rate: float | None = None
    concurrency: int = 4
    polite: int = 4


class Scenario(ABC):
    """One kind of abuse. A new one is a class and its place in ``SCENARIOS``.

    ``name`` is as the command line has it, ``summary`` says in a few words what a cycle does,
    ``criterion`` what convicts, besides what ``ALWAYS`` does.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    criterion: ClassVar[str]
    defaults: ClassVar[Defaults]

    most_growth_bytes: ClassVar[int | None] = None
    """Memory that may be held above what it was at the start, at any time; None: no bound."""

    growth_each_bytes: ClassVar[int] = 0
    """The same for each cycle at a time, where that is more in all."""

    late_s: ClassVar[float | None] = None
    """Polite clients may wait so long; None: until their timeout."""

    held_share: ClassVar[float] = 0.0
    """The share of ``hold_s`` after which a cycle is judged: a run must be longer."""

    def part(self, number: int) -> Scenario:
        """The scenario whose cycle this number is: itself, unless it is made of others."""
        return self

    def growth_bound(self, concurrency: int) -> int | None:
        """Memory that may be held above the start with so many cycles at a time, in bytes; None: no bound."""
        if self.most_growth_bytes is None:
            return None
        return max(self.most_growth_bytes, concurrency * self.growth_each_bytes)

    @abstractmethod
    def cycle(self, target: Target, number: int) -> None:
        """Do it once; it is called by several threads at a time.

        Args:
            target: the server.
            number: of this cycle, from 1.

        Raises:
            CycleFailedError: the server did not do its part.
            TurnedAwayError: it refused, as it may.
            CutShortError: the run has ended.
            ConnectError: this machine could not do its own part.
        """


def chance_of(name: str, number: int) -> random.Random:
    """What decides in this cycle of this scenario: the same number, the same choices."""
    return random.Random(f"{name} {number}")  # noqa: S311  it keeps no secret


def ask(target: Target, link: Link, session: ClientSession) -> None:
    """Ask for one register; the answer is checked wholly (spec.md 4.4) and must be all that comes.

    A Modbus exception is an answer too. It is for those that need the bare connection; see ``read_once``.

    Raises:
        CycleFailedError: there was none, or a wrong one.
        CutShortError: the run has ended.
    """
    deadline = time.monotonic() + target.timeout_s
    try:
        link.send(session.submit(target.unit, READ)[1], deadline)
        while not _answered(link.receive(deadline), session):
            pass
    except OSError as error:
        raise no_answer(error) from error


def _answered(data: bytes, session: ClientSession) -> bool:
    if not data:
        raise CycleFailedError(FailureKind.RESET, "the connection was closed before the answer")
    completions = session.receive(data)
    error: ModbusError | None = completions[0].error if completions else session.fault
    if error is not None and not isinstance(error, ExceptionResponseError):
        raise CycleFailedError(FailureKind.BAD_ANSWER, str(error))
    if session.statistics().unknown:
        raise CycleFailedError(FailureKind.BAD_ANSWER, "an answer to a request that was not made")
    return bool(completions)
