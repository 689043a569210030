"""The audit trail: a record of every write and of every denial, built here and kept by a sink.

Reads that are allowed leave no record and cost nothing. A write has one record for each range that it
writes, made when it is answered; old values are those of the bank just before, where the unit's device
has one here. A denial has one, about the part that was denied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from everbus.errors import ExceptionResponseError
from everbus.protocol.codes import EXCEPTION_BIT, FunctionCode, function_name
from everbus.protocol.pdu import bits, files, registers
from everbus.protocol.pdu.table import AnyRequest
from everbus.protocol.values import unpack_bits, unpack_registers
from everbus.service.authorize import FILES, Decision, Kind, touched
from everbus.service.bank import Bank, TableName
from everbus.service.context import RequestContext
from everbus.service.handler import Handler

__all__ = ["AuditRecord", "AuditSink", "Change", "Outcome", "PendingAudit", "audited", "denial", "outcome_of"]

_REFERENCES: Final = {
    TableName.COILS: 0,
    TableName.DISCRETE_INPUTS: 1,
    TableName.INPUT_REGISTERS: 3,
    TableName.HOLDING_REGISTERS: 4,
}
"""What the reference numbers of a table start with (spec.md 3)."""

_READS: Final = frozenset(range(FunctionCode.READ_COILS, FunctionCode.READ_INPUT_REGISTERS + 1))
_BITS: Final = (TableName.COILS, TableName.DISCRETE_INPUTS)


@dataclass(slots=True)
class Change:
    """A range, and what is written there.

    Args:
        table: one of the four tables, or ``files``.
        address: first item; in files the first record.
        count: how many.
        new: their values as wire bytes; None: not known before it has happened, or nothing is written.
        file: number of the file.
    """

    table: str
    address: int
    count: int
    new: bytes | None = None
    file: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request ended.

    Args:
        exception: the code that it was answered with; None: it was done.
        abandoned: it was passed on, and nobody waited for the end.
    """

    exception: int | None = None
    abandoned: bool = False


_DONE: Final = Outcome()


@dataclass(slots=True)
class AuditRecord:
    """Something that was written, or was to be. The sink adds the time.

    Args:
        context: who asked whom.
        request: what was asked.
        decision: what the policy said.
        outcome: how it ended.
        change: the range; None: the request has none.
        old: the values that were there as wire bytes, where they are known.
    """

    context: RequestContext
    request: AnyRequest
    decision: Decision
    outcome: Outcome
    change: Change | None = None
    old: bytes | None = None

    def document(self) -> dict[str, object]:
        """The record for JSON: registers as numbers, coils as 0 and 1; what does not apply is null or missing."""
        context, request = self.context, self.request
        document: dict[str, object] = {
            "decision": self.decision.verdict.value,
            "rule": self.decision.rule or None,
            "peer": context.peer,
            "subject": context.subject,
            "role": context.role,
            "endpoint": context.connection.endpoint,
            "connection": context.connection_id,
            "unit": context.unit,
            "transaction": context.transaction,
            "function": int(request.function_code),
            "name": function_name(request.function_code),
        }
        change = self.change
        if change is not None:
            old, new = _values(change, self.old), _values(change, change.new)
            document |= _range_fields(change) | {"old": old, "new": new}
        if change is None or change.new is None:
            document["request"] = request.encode().hex()
        document["exception"] = self.outcome.exception
        if self.outcome.abandoned:
            document["abandoned"] = True
        return document


def _range_fields(change: Change) -> dict[str, object]:
    fields: dict[str, object] = {"table": str(change.table)}
    if change.file is not None:
        return fields | {"file": change.file, "record": change.address, "count": change.count}
    reference = f"{_REFERENCES[TableName(change.table)]}{change.address + 1:05}"
    return fields | {"address": change.address, "reference": reference, "count": change.count}


def _values(change: Change, data: bytes | None) -> list[int] | None:
    if data is None:
        return None
    return list(map(int, unpack_bits(data, change.count))) if change.table in _BITS else unpack_registers(data)


class AuditSink(Protocol):
    """Keeps records. Called inside the loop: it must not block."""

    def record(self, record: AuditRecord) -> None:
        """Keep a record, or count it as dropped."""
        ...


class PendingAudit:
    """A write that is under way: what its records need to know from before it."""

    __slots__ = ("_changes", "_context", "_decision", "_olds", "_request")

    def __init__(
        self, request: AnyRequest, context: RequestContext, decision: Decision, handler: Handler | None
    ) -> None:
        self._request = request
        self._context = context
        self._decision = decision
        self._changes = _changes(request)
        bank = getattr(handler, "bank", None)
        self._olds = [_old(bank, change) if isinstance(bank, Bank) else None for change in self._changes]

    def records(self, outcome: Outcome) -> list[AuditRecord]:
        """One for each range that is written, at least one."""
        who = (self._context, self._request, self._decision, outcome)
        if not self._changes:
            return [AuditRecord(*who)]
        pairs = zip(self._changes, self._olds, strict=True)
        return [AuditRecord(*who, _completed(self._request, change, old), old) for change, old in pairs]


def audited(request: AnyRequest) -> bool:
    """Whether a request leaves a record also when it is allowed: it writes, or nobody here knows what it does."""
    if request.function_code in _READS:
        return False
    return any(touch.kind is not Kind.READ for touch in touched(request))


def denial(request: AnyRequest, context: RequestContext, decision: Decision) -> AuditRecord:
    """The record of a request that the policy does not let through."""
    return AuditRecord(context, request, decision, Outcome(decision.exception_code), _denied(request, decision))


def outcome_of(pdu: bytes | None) -> Outcome:
    """How a request ended that is answered with this; None: with silence."""
    if pdu is None or not pdu[0] & EXCEPTION_BIT:
        return _DONE
    return Outcome(pdu[1])


def _denied(request: AnyRequest, decision: Decision) -> Change | None:
    """The range that was denied, with what was to be written there."""
    touch = decision.touch
    if touch is None or touch.table is None:
        return None
    if touch.kind is Kind.WRITE:
        return next(
            change
            for change in _changes(request)
            if touch.start == (change.address if change.file is None else change.file)
        )
    if touch.table != FILES:
        return Change(touch.table, touch.start, touch.end - touch.start)
    group = next(group for group in getattr(request, "groups", ()) if group.file == touch.start)
    return Change(FILES, group.record, group.record_count, file=group.file)


def _old(bank: Bank, change: Change) -> bytes | None:
    if change.table == FILES:
        return None
    try:
        return bank.read_wire(TableName(change.table), change.address, change.count)
    except ExceptionResponseError:  # it is not there: the write will fail too
        return None


def _completed(request: AnyRequest, change: Change, old: bytes | None) -> Change:
    """With the value that a mask made of the old one."""
    if not isinstance(request, registers.MaskWriteRegisterRequest) or old is None:
        return change
    return replace(change, new=request.apply(int.from_bytes(old, "big")).to_bytes(2, "big"))


def _changes(request: AnyRequest) -> Sequence[Change]:
    """What a request writes."""
    holding = TableName.HOLDING_REGISTERS
    match request:
        case bits.WriteSingleCoilRequest():
            return [Change(TableName.COILS, request.address, 1, b"\1" if request.on else b"\0")]
        case bits.WriteMultipleCoilsRequest():
            return [Change(TableName.COILS, request.address, request.quantity, request.data)]
        case registers.WriteSingleRegisterRequest():
            return [Change(holding, request.address, 1, request.value.to_bytes(2, "big"))]
        case registers.WriteMultipleRegistersRequest():
            return [Change(holding, request.address, request.quantity, request.data)]
        case registers.MaskWriteRegisterRequest():
            return [Change(holding, request.address, 1)]
        case registers.ReadWriteMultipleRegistersRequest():
            return [Change(holding, request.write_address, request.write_quantity, request.data)]
        case files.WriteFileRecordRequest():
            groups = request.groups
            return [Change(FILES, group.record, group.record_count, group.data, group.file) for group in groups]
        case _:
            return []
