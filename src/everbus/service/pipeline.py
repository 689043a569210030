"""From a request to its answer: policy, unit, handler; and the one place where errors become codes.

The host gives frames and gets bytes, silence, or something to wait for. Nothing here awaits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from inspect import isawaitable
from typing import Final

from everbus.errors import ConfigurationError, ExceptionResponseError, PduError, UsageError
from everbus.observe import NULL_OBSERVER, Event, EventKind, Observer, error_text
from everbus.protocol.codes import EXCEPTION_BIT, MAX_PDU_BYTES, ExceptionCode, FunctionCode
from everbus.protocol.framing.base import Frame
from everbus.protocol.pdu.base import ExceptionResponse, Response
from everbus.protocol.pdu.table import PUBLIC, AnyRequest, FunctionTable
from everbus.service.audit import AuditRecord, AuditSink, Outcome, PendingAudit, audited, denial, outcome_of
from everbus.service.authorize import ALLOW_ALL, Decision, Policy, Verdict, access_of
from everbus.service.context import ConnectionInfo, RequestContext
from everbus.service.diagnostics import Diagnostics
from everbus.service.handler import SILENT, Answer
from everbus.service.units import Station, Units, UnknownUnit

__all__ = ["Pending", "Pipeline"]


_MOST_EXTENDED_BYTES: Final = MAX_PDU_BYTES - 4
_PLAIN_READS: Final = (
    FunctionCode.READ_COILS,
    FunctionCode.READ_DISCRETE_INPUTS,
    FunctionCode.READ_HOLDING_REGISTERS,
    FunctionCode.READ_INPUT_REGISTERS,
)
_HEADS: Final[dict[int, int]] = dict.fromkeys(map(int, _PLAIN_READS), 5) | {
    FunctionCode.WRITE_SINGLE_COIL: 3,
    FunctionCode.WRITE_SINGLE_REGISTER: 3,
    FunctionCode.WRITE_MULTIPLE_COILS: 5,
    FunctionCode.WRITE_MULTIPLE_REGISTERS: 5,
    FunctionCode.MASK_WRITE_REGISTER: 3,
    FunctionCode.READ_WRITE_MULTIPLE_REGISTERS: 9,
}
"""How many bytes of a request say what it touches."""

_UNASKED: Final = Decision(Verdict.ALLOWED)


@dataclass(frozen=True, slots=True)
class Pending:
    """A request whose handler needs time: await it, then ``settle`` or ``fail``."""

    awaitable: Awaitable[Answer]
    request: AnyRequest
    context: RequestContext
    diagnostics: Diagnostics | None
    audit: PendingAudit | None = None


def _no_clock() -> float:
    raise ConfigurationError("this policy has rates: the pipeline needs a clock")


class Pipeline:
    """Answers the requests of one server.

    Args:
        units: who answers for which unit.
        policy: who may do what; decided before the unit is looked up.
        table: the function codes this server knows.
        observer: told of handlers that fail.
        audit: told of every write and every denial.
        clock: monotonic seconds; asked where the policy limits a rate, which it cannot without.
    """

    __slots__ = (
        "_audit",
        "_clock",
        "_heads",
        "_observer",
        "_open",
        "_plain_reads",
        "_policy",
        "_table",
        "_units",
        "exceptions",
    )

    def __init__(
        self,
        units: Units,
        policy: Policy = ALLOW_ALL,
        table: FunctionTable = PUBLIC,
        observer: Observer = NULL_OBSERVER,
        *,
        audit: AuditSink | None = None,
        clock: Callable[[], float] = _no_clock,
    ) -> None:
        self._units = units
        self._policy = policy
        self._table = table
        self._observer = observer
        self._audit = audit
        self._clock = clock
        self._open = policy.unconditional
        # The short way answers public reads without asking the table, nor the policy what it has allowed before.
        self._plain_reads = table.agrees(PUBLIC, _PLAIN_READS)
        self._heads = {code: size for code, size in _HEADS.items() if table.agrees(PUBLIC, [code])}
        self.exceptions: int = 0
        """Exception responses given since the start."""

    def answer(self, frame: Frame, connection: ConnectionInfo) -> bytes | Pending | None:
        """The response PDU to a request, or what to wait for, or None: stay silent."""
        unit, pdu, _ = frame
        station = self._units.station(unit)
        if (
            self._plain_reads
            and station is not None
            and (local := station.local) is not None
            and (
                self._open
                or (
                    (access := connection.access) is not None
                    and access.policy is self._policy
                    and (unit, pdu) in access.known
                )
            )
        ):
            try:
                answer = local.answer_wire(pdu)
            except Exception as error:  # noqa: BLE001  as below
                context = RequestContext(connection, frame.unit, frame.transaction)
                return self._refuse(error, frame.pdu[0], context, station.diagnostics)
            if answer is not None:
                return answer
        return self._answer(frame, connection, station)

    def _answer(self, frame: Frame, connection: ConnectionInfo, station: Station | None) -> bytes | Pending | None:
        if station is None and self._units.unknown is UnknownUnit.SILENT:
            return None  # whoever owns that unit answers: nothing is said, not even that it is wrong
        code = frame.pdu[0]
        diagnostics = station.diagnostics if station is not None else None
        if diagnostics is not None and not diagnostics.received(frame.pdu):
            return None
        try:
            request = self._table.decode_request(frame.pdu)
        except PduError as error:
            return self._exception(code, error.exception_code, diagnostics)
        context = RequestContext(connection, frame.unit, frame.transaction)
        try:
            decision = _UNASKED if self._open else self._decide(request, frame.pdu, context)
        except Exception as error:  # noqa: BLE001  somebody else's policy: what cannot be decided is not done
            return self._refuse(error, code, context, diagnostics)
        if not decision.allowed:
            self._tell([denial(request, context, decision)])
            return self._exception(code, decision.exception_code, diagnostics)
        if station is None:
            return self._exception(code, self._units.unknown.value, None)
        return self._execute(request, context, station, decision)

    def _decide(self, request: AnyRequest, pdu: bytes, context: RequestContext) -> Decision:
        """Ask what the policy made of this connection; remember what is always allowed."""
        connection = context.connection
        access = connection.access
        if access is None or access.policy is not self._policy:
            access = access_of(self._policy, connection)
            object.__setattr__(connection, "access", access)
        head = pdu[: self._heads.get(pdu[0], 0)]
        decision = access.known.get((context.unit, head))
        if decision is None:
            decision = access.decide(request, context, self._clock)
            if decision.lasting and head:
                access.remember(context.unit, head, decision)
        return decision

    def _execute(
        self, request: AnyRequest, context: RequestContext, station: Station, decision: Decision
    ) -> bytes | Pending | None:
        audit = None
        try:
            if self._audit is not None and audited(request):
                audit = PendingAudit(request, context, decision, station.handler)
            answer = station.handler.handle(request, context)
            if not isinstance(answer, Response) and isawaitable(answer):
                return Pending(answer, request, context, station.diagnostics, audit)
            pdu = self._encode(answer, request, station.diagnostics)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001  whatever a handler raises is answered, CancelledError too
            pdu = self._refuse(error, request.function_code, context, station.diagnostics)
        return self._audited(audit, pdu)

    def settle(self, pending: Pending, answer: Answer) -> bytes | None:
        """The response PDU of what an awaited handler returned; None: stay silent."""
        try:
            pdu = self._encode(answer, pending.request, pending.diagnostics)
        except Exception as error:  # noqa: BLE001  a response that cannot be sent is the handler's failure
            return self.fail(pending, error)
        return self._audited(pending.audit, pdu)

    def fail(self, pending: Pending, error: BaseException) -> bytes | None:
        """The exception response for what an awaited handler raised."""
        pdu = self._refuse(error, pending.request.function_code, pending.context, pending.diagnostics)
        return self._audited(pending.audit, pdu)

    def abandon(self, pending: Pending) -> None:
        """Nobody waits for an awaited handler any more, as when its connection has ended: note what it was to write."""
        if pending.audit is not None:
            self._tell(pending.audit.records(Outcome(abandoned=True)))

    def _audited(self, audit: PendingAudit | None, pdu: bytes | None) -> bytes | None:
        """Note a write that is answered with this."""
        if audit is not None:
            self._tell(audit.records(outcome_of(pdu)))
        return pdu

    def _tell(self, records: Iterable[AuditRecord]) -> None:
        if self._audit is None:
            return
        try:
            for record in records:
                self._audit.record(record)
        except Exception as error:  # noqa: BLE001  somebody else's sink: the request is answered all the same
            event = Event(EventKind.HANDLER_FAILED, reason="audit", detail=error_text(error), error=error)
            self._observer.notify(event)

    def _encode(self, answer: object, request: AnyRequest, diagnostics: Diagnostics | None) -> bytes | None:
        """The bytes of what a handler returned, if it can answer the request."""
        code = request.function_code
        if isinstance(answer, ExceptionResponse):
            if answer.function != code or not _is_legal(answer):
                raise UsageError(f"the handler answered {code:02X} with {answer!r}")
            return self._exception(code, answer.exception_code, diagnostics, answer)
        if answer is SILENT:
            if diagnostics is not None:
                diagnostics.completed(code, answered=False)
            return None
        if not isinstance(answer, Response) or not isinstance(answer, request.response_type):
            raise UsageError(f"the handler answered {type(request).__name__} with {answer!r:.200}")
        pdu = _checked(request, answer)
        if diagnostics is not None:
            diagnostics.completed(code)
        return pdu

    def _refuse(
        self, error: BaseException, function_code: int, context: RequestContext, diagnostics: Diagnostics | None
    ) -> bytes | None:
        """The one place where a handler's error becomes an exception code."""
        if isinstance(error, ExceptionResponseError) and _is_legal(ExceptionResponse(function_code, error.code)):
            code = error.code
        else:
            code = ExceptionCode.SERVER_DEVICE_FAILURE
            self._report(error, function_code, context)
        return self._exception(function_code, code, diagnostics)

    def _report(self, error: BaseException, function_code: int, context: RequestContext) -> None:
        timed_out = isinstance(error, TimeoutError)
        event = Event(
            EventKind.HANDLER_TIMED_OUT if timed_out else EventKind.HANDLER_FAILED,
            peer=context.peer,
            reason=type(error).__name__,
            detail=f"function {function_code:02X}, unit {context.unit}: {error_text(error)}",
            connection_id=context.connection_id,
            error=error,
        )
        self._observer.notify(event)

    def _exception(
        self,
        function_code: int,
        exception_code: int,
        diagnostics: Diagnostics | None,
        response: ExceptionResponse | None = None,
    ) -> bytes | None:
        self.exceptions += 1
        if diagnostics is not None:
            diagnostics.completed(function_code, exception_code, answered=not diagnostics.listen_only)
            if diagnostics.listen_only:
                return None
        if response is not None:
            return response.encode()
        return bytes((function_code | EXCEPTION_BIT, exception_code))


def _is_legal(response: ExceptionResponse) -> bool:
    """A code; and data in the extended form of 2B/0D (spec.md 1.8), there only and there always."""
    code = response.exception_code
    extended = response.function == FunctionCode.ENCAPSULATED_INTERFACE and code == ExceptionCode.EXTENDED
    if extended:
        return 1 <= len(response.data) <= _MOST_EXTENDED_BYTES
    return 1 <= code <= 0xFF and not response.data


def _checked(request: AnyRequest, response: Response) -> bytes:
    """The bytes of a handler's response, if the specification and the request allow it."""
    try:
        response.check()
    except PduError as error:  # the handler's mistake, not the peer's: it must not choose the code
        raise UsageError(f"the handler's answer is not legal: {error}") from error
    pdu = response.encode()
    problem = request.mismatch(response)
    if problem is None and len(pdu) > MAX_PDU_BYTES:
        problem = f"{len(pdu)} bytes are over {MAX_PDU_BYTES}"
    if problem is not None:
        raise UsageError(f"the handler's answer does not fit {request!r:.200}: {problem}")
    return pdu
