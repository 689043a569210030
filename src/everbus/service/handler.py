"""Devices answer requests: one method, ``handle(request, context)``.

A bank in memory, a remote device behind a client, a simulated device: each is a ``Handler``. What
a handler raises becomes an exception code in one place, ``service.pipeline``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Final, Protocol, runtime_checkable

from everbus.protocol.pdu.base import ExceptionResponse, Response
from everbus.protocol.pdu.table import AnyRequest
from everbus.service.context import RequestContext
from everbus.service.diagnostics import Diagnostics

__all__ = ["SILENT", "Answer", "FunctionHandler", "Handler", "LocalHandler", "Silence"]


class Silence(Enum):
    """The type of ``SILENT``."""

    SILENT = "silent"


SILENT: Final = Silence.SILENT
"""A handler's way not to answer at all. Returning nothing by mistake is not that: it is a failure."""

Answer = Response | ExceptionResponse | Silence


@runtime_checkable
class Handler(Protocol):
    """Answers requests."""

    def handle(self, request: AnyRequest, context: RequestContext) -> Answer | Awaitable[Answer]:
        """Answer one request, now or later.

        Args:
            request: legal by the specification; its range ends inside its table.
            context: who asks whom.

        Returns:
            The response, of the request's ``response_type``; or an awaitable of it, which is run
            in a task of its own, at most ``max_in_flight`` of a connection at once, and cancelled
            at ``handler_timeout_s`` or when the connection ends.

        Raises:
            ExceptionResponseError: answered with its code.
            Exception: anything else is answered with exception 04, and reported.
        """
        ...


@runtime_checkable
class LocalHandler(Handler, Protocol):
    """A handler that keeps its data here, and so has a shorter way and counters of its own."""

    diagnostics: Diagnostics

    def answer_wire(self, pdu: bytes) -> bytes | None:
        """The response PDU to a plain read, straight from wire bytes.

        None: this PDU takes the long way, by ``handle``. Both ways give the same answer.
        """
        ...


HandlerFunction = Callable[[AnyRequest, RequestContext], Answer | Awaitable[Answer]]


class FunctionHandler:
    """A plain function, sync or async, as a handler."""

    __slots__ = ("_function",)

    def __init__(self, function: HandlerFunction) -> None:
        self._function = function

    def handle(self, request: AnyRequest, context: RequestContext) -> Answer | Awaitable[Answer]:
        """Call the function."""
        return self._function(request, context)
