"""Asking a handler without a network: what a client would get, through the same pipeline."""

from __future__ import annotations

from typing import TypeVar

from everbus.protocol.client_session import match_response
from everbus.protocol.framing.base import Frame
from everbus.protocol.pdu.base import Request, Response
from everbus.protocol.pdu.table import PUBLIC, FunctionTable
from everbus.service.context import ConnectionInfo
from everbus.service.pipeline import Pending, Pipeline
from everbus.service.units import UnitSource, as_units

__all__ = ["ask"]

R = TypeVar("R", bound=Response)


async def ask(handler: UnitSource, request: Request[R], unit: int = 1, table: FunctionTable = PUBLIC) -> R | None:
    """What a client gets that asks this handler: policy aside, everything a server does is done.

    Args:
        handler: as for ``Server``.
        request: any request that the table knows.
        unit: 0..255.
        table: the function codes that the server would know.

    Returns:
        The response; None: the handler stayed silent.

    Raises:
        ExceptionResponseError: the answer is a Modbus exception; a handler that raises or answers
            nonsense gives 04 here, as it does on the wire.
    """
    pipeline = Pipeline(as_units(handler), table=table)
    answer = pipeline.answer(Frame(unit, request.encode()), ConnectionInfo(1, "test", "test"))
    pdu = await _settled(pipeline, answer) if isinstance(answer, Pending) else answer
    if pdu is None:
        return None
    response: R = match_response(request, pdu, table)  # type: ignore[assignment]  # checked there
    return response


async def _settled(pipeline: Pipeline, pending: Pending) -> bytes | None:
    try:
        answer = await pending.awaitable
    except Exception as error:  # noqa: BLE001  as on the wire, whatever it is
        return pipeline.fail(pending, error)
    return pipeline.settle(pending, answer)
