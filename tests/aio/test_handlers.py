from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from math import inf
from time import monotonic

from everbus.aio.handlers import Handlers
from everbus.observe import EventKind
from everbus.protocol.pdu.registers import ReadHoldingRegistersRequest, ReadHoldingRegistersResponse
from everbus.service.bank import Bank
from everbus.service.context import ConnectionInfo, RequestContext
from everbus.service.handler import SILENT, Answer
from everbus.service.pipeline import Pending, Pipeline
from everbus.service.units import Units
from everbus.testing import RecordingObserver
from tests.aio.wire import FAILED, ZERO, until

TEN = ReadHoldingRegistersResponse.of([10])


class Desk:
    """Handlers, and what becomes of them."""

    def __init__(self) -> None:
        self.observer = RecordingObserver()
        self.abandoned: set[asyncio.Future[object]] = set()
        self.finished: list[tuple[str, bytes | None]] = []
        pipeline = Pipeline(Units(Bank()), observer=self.observer)
        self.handlers = Handlers[str](pipeline, 5.0, self.abandoned, lambda key, pdu: self.finished.append((key, pdu)))

    def start(self, key: str, awaitable: Awaitable[Answer], unit: int = 1) -> None:
        context = RequestContext(ConnectionInfo(1), unit, 0)
        self.handlers.start(key, Pending(awaitable, ReadHoldingRegistersRequest(0, 1), context, None))

    async def all_ended(self) -> None:
        await until(lambda: not self.abandoned and not len(self.handlers))


async def gives(answer: Answer) -> Answer:
    return answer


async def raises(error: BaseException) -> Answer:
    raise error


async def test_what_a_handler_gives_or_raises_is_told_by_its_key() -> None:
    desk = Desk()
    desk.start("ten", gives(TEN))
    desk.start("silent", gives(SILENT))
    desk.start("wrong", gives(None))  # type: ignore[arg-type]  # that is what is tested
    desk.start("error", raises(ValueError("no")))
    desk.start("cancelled", raises(asyncio.CancelledError()))
    assert len(desk.handlers) == 5
    await desk.all_ended()
    told = [("ten", b"\x03\x02\0\x0a"), ("silent", None), ("wrong", FAILED), ("error", FAILED), ("cancelled", FAILED)]
    assert desk.finished == told


async def test_at_its_deadline_a_handler_is_given_up_and_its_late_result_is_discarded() -> None:
    desk = Desk()
    go_on = asyncio.Event()

    async def stubborn() -> Answer:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await go_on.wait()
        return TEN

    desk.start("late", stubborn())
    await asyncio.sleep(0)
    desk.handlers.expire(monotonic() + 4.9)
    assert desk.finished == []
    desk.handlers.expire(inf)
    assert desk.finished == [("late", FAILED)]
    assert len(desk.abandoned) == 1
    assert desk.observer.reasons(EventKind.HANDLER_TIMED_OUT) == ["ModbusTimeoutError"]
    go_on.set()
    await desk.all_ended()
    assert desk.finished == [("late", FAILED)]


async def test_a_future_of_the_handlers_own_may_answer_several_and_is_never_cancelled() -> None:
    desk = Desk()
    shared: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    desk.start("one", shared)
    desk.start("two", shared)
    desk.handlers.expire(inf)
    assert not shared.cancelled()
    desk.start("three", shared)
    shared.set_result(ReadHoldingRegistersResponse.of([0]))
    await desk.all_ended()
    assert desk.finished == [("one", FAILED), ("two", FAILED), ("three", ZERO)]


async def test_whoever_is_exempt_stays_unanswered_and_goes_on() -> None:
    desk = Desk()
    own: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    ended: list[str] = []

    async def caller() -> Answer:
        me = asyncio.current_task()
        assert me is not None
        desk.handlers.exempt(me)
        await asyncio.sleep(0)
        ended.append("caller")
        return TEN

    desk.start("caller", caller())
    desk.start("future", own)
    desk.start("other", gives(TEN))
    desk.handlers.exempt(own)
    await until(lambda: ended == ["caller"])
    own.set_result(TEN)
    await desk.all_ended()
    assert desk.finished == [("future", None), ("caller", None), ("other", b"\x03\x02\0\x0a")]


async def test_what_is_given_up_is_noted_as_that() -> None:
    noted: list[int] = []

    class Noting(Pipeline):
        def abandon(self, pending: Pending) -> None:
            noted.append(pending.context.unit)

    desk = Desk()
    pipeline = Noting(Units(Bank()))
    desk.handlers = Handlers[str](pipeline, 5.0, desk.abandoned, lambda key, pdu: desk.finished.append((key, pdu)))
    own: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    for unit, awaitable in enumerate((gives(TEN), asyncio.sleep(60, TEN), asyncio.sleep(60, TEN), own)):
        desk.start(str(unit), awaitable, unit)
    await until(lambda: len(desk.finished) == 1)
    desk.handlers.exempt(own)
    assert noted == [3]
    desk.handlers.abandon_all()
    assert noted == [3, 1, 2]
    desk.start("late", asyncio.sleep(60, TEN))
    desk.handlers.expire(inf)
    assert noted == [3, 1, 2], "it was answered"
    own.set_result(TEN)
    await desk.all_ended()


async def test_those_that_are_given_up_tell_nobody() -> None:
    desk = Desk()

    async def fails_late() -> Answer:
        try:
            await asyncio.sleep(60)
        finally:
            raise ValueError("nobody hears it")

    desk.start("never begun", gives(TEN))
    desk.start("fails late", fails_late())
    await asyncio.sleep(0)
    desk.start("sleeps", asyncio.sleep(60, TEN))
    desk.handlers.abandon_all()
    assert len(desk.handlers) == 0
    await desk.all_ended()
    assert desk.finished == []
