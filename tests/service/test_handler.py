from __future__ import annotations

from collections.abc import Awaitable

import pytest

from everbus.protocol.pdu.registers import ReadHoldingRegistersRequest, ReadHoldingRegistersResponse
from everbus.protocol.pdu.table import AnyRequest
from everbus.service.context import ConnectionInfo, RequestContext
from everbus.service.handler import SILENT, Answer, FunctionHandler, Handler, LocalHandler, Silence
from everbus.service.local import LocalDevice

CONTEXT = RequestContext(ConnectionInfo(1), 1, 1)
READ = ReadHoldingRegistersRequest(0, 1)
ANSWER = ReadHoldingRegistersResponse(b"\x00\x2a")


class Remote:
    """A handler without data of its own."""

    def handle(self, request: AnyRequest, context: RequestContext) -> Answer:
        return ANSWER


def test_a_function_is_a_handler() -> None:
    asked: list[tuple[AnyRequest, RequestContext]] = []

    def function(request: AnyRequest, context: RequestContext) -> Answer:
        asked.append((request, context))
        return ANSWER

    handler: Handler = FunctionHandler(function)
    assert handler.handle(READ, CONTEXT) is ANSWER
    assert asked == [(READ, CONTEXT)]


def test_a_function_may_answer_later() -> None:
    async def function(request: AnyRequest, context: RequestContext) -> Answer:
        return ANSWER

    answer = FunctionHandler(function).handle(READ, CONTEXT)
    assert isinstance(answer, Awaitable)
    with pytest.raises(StopIteration) as finished:
        answer.__await__().send(None)
    assert finished.value.value is ANSWER


def test_what_a_function_raises_is_left_to_the_pipeline() -> None:
    def function(request: AnyRequest, context: RequestContext) -> Answer:
        raise KeyError("boiler")

    with pytest.raises(KeyError, match="boiler"):
        FunctionHandler(function).handle(READ, CONTEXT)


def test_whatever_has_a_handle_method_is_a_handler() -> None:
    assert isinstance(Remote(), Handler)
    assert isinstance(FunctionHandler(lambda request, context: SILENT), Handler)
    assert not isinstance(object(), Handler)


def test_only_a_handler_with_the_short_way_and_counters_is_local() -> None:
    assert isinstance(LocalDevice(), LocalHandler)
    assert not isinstance(Remote(), LocalHandler)


def test_silence_is_one_value_and_nothing_else() -> None:
    assert list(Silence) == [SILENT]
