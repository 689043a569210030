"""Clients that do not wait for an answer before they ask again."""

from __future__ import annotations

import random
import time
from typing import ClassVar, Final

from everbus.errors import ExceptionResponseError, ModbusError
from everbus.protocol.client_session import match_response
from everbus.protocol.framing.base import Frame
from everbus.protocol.framing.mbap import MbapFramer
from everbus.protocol.pdu.bits import ReadCoilsRequest, ReadDiscreteInputsRequest
from everbus.protocol.pdu.registers import ReadHoldingRegistersRequest, ReadInputRegistersRequest
from everbus.protocol.pdu.table import AnyRequest
from everbus.soak.scenarios.base import Defaults, Scenario, chance_of
from everbus.soak.target import CycleFailedError, FailureKind, Link, Target, no_answer

__all__ = ["Pipeline"]

_DEPTH: Final = 16
_ROUNDS: Final = (_DEPTH, 1, _DEPTH)
_MOST_ANSWER_BYTES: Final = 2 * _DEPTH
_MOST_CUTS: Final = 5
_BETWEEN_CUTS_S: Final = 0.001
"""Long enough that the pieces arrive as segments of their own."""

_BIT_READS: Final = (ReadCoilsRequest, ReadDiscreteInputsRequest)
_REGISTER_READS: Final = (ReadHoldingRegistersRequest, ReadInputRegistersRequest)


class Pipeline(Scenario):
    """Sixteen reads at once, one alone, sixteen again: each id is answered once, with what it asked for.

    No two of a round ask for the same number of bytes, so an answer under the wrong id shows. The
    order is the server's own affair.
    """

    name: ClassVar[str] = "pipeline"
    summary: ClassVar[str] = "send 16 reads of different lengths in one segment or cut at random, then one, then 16"
    criterion: ClassVar[str] = (
        "A missing answer, one whose id was not asked or was answered before, and one that is not what its id "
        "asked for convict."
    )
    defaults: ClassVar[Defaults] = Defaults(cycles=500)

    def cycle(self, target: Target, number: int) -> None:
        chance = chance_of(self.name, number)
        with target.connect() as link:
            framer = MbapFramer()
            for depth in _ROUNDS:
                try:
                    _round(target, link, framer, _requests(chance, depth), chance)
                except OSError as error:
                    raise no_answer(error) from error


def _requests(chance: random.Random, depth: int) -> dict[int, AnyRequest]:
    """So many reads by their transaction ids; each has an answer of another length."""
    ids = chance.sample(range(0x10000), depth)
    lengths = chance.sample(range(1, _MOST_ANSWER_BYTES + 1), depth)
    return {number: _request(chance, length) for number, length in zip(ids, lengths, strict=True)}


def _request(chance: random.Random, answer_bytes: int) -> AnyRequest:
    if answer_bytes % 2 or chance.random() < 0.5:
        return chance.choice(_BIT_READS)(0, 8 * answer_bytes - chance.randrange(8))
    return chance.choice(_REGISTER_READS)(0, answer_bytes // 2)


def _round(target: Target, link: Link, framer: MbapFramer, asked: dict[int, AnyRequest], chance: random.Random) -> None:
    deadline = time.monotonic() + target.timeout_s
    encoded = (framer.encode(target.unit, request.encode(), number) for number, request in asked.items())
    for piece in _cut(b"".join(encoded), chance):
        link.send(piece, deadline)
        link.rest(time.monotonic() + _BETWEEN_CUTS_S)
    waiting = dict(asked)
    while waiting:
        data = _more(link, deadline, len(waiting), len(asked))
        for frame in framer.feed(data):
            _settle(waiting, frame, target.unit)
        if framer.fault is not None:
            raise CycleFailedError(FailureKind.BAD_ANSWER, str(framer.fault))


def _cut(data: bytes, chance: random.Random) -> list[bytes]:
    """The whole, or pieces of it."""
    cuts = sorted(chance.sample(range(1, len(data)), chance.choice((0, chance.randint(1, _MOST_CUTS)))))
    return [data[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def _more(link: Link, deadline: float, missing: int, asked: int) -> bytes:
    lost = f"{missing} of {asked} answers are missing"
    try:
        data = link.receive(deadline)
    except TimeoutError as error:
        raise CycleFailedError(FailureKind.MISSING, f"{lost}, and nothing comes any more") from error
    if not data:
        raise CycleFailedError(FailureKind.MISSING, f"{lost}, and the connection was closed")
    return data


def _settle(waiting: dict[int, AnyRequest], frame: Frame, unit: int) -> None:
    """Take one answer off the list of those that are waited for."""
    request = waiting.pop(frame.transaction, None)
    if request is None:
        message = f"an answer under id {frame.transaction:04X}, which was not asked or was answered before"
        raise CycleFailedError(FailureKind.FOREIGN, message)
    try:
        if frame.unit == unit:
            match_response(request, frame.pdu)
            return
        problem = f"unit {frame.unit} answers a request to unit {unit}"
    except ExceptionResponseError:
        return  # an answer too
    except ModbusError as error:
        problem = str(error)
    raise CycleFailedError(FailureKind.BAD_ANSWER, f"id {frame.transaction:04X}: {problem}")
