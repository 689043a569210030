"""Who may do what: asked before the unit is looked up, so that nobody maps a device by its errors.

Modbus/TCP Security R-23 to R-31 (spec.md 6.4): inputs are the role, the function and the range. What
a request touches, and whether it reads or writes there, is said here once, for policies and for the
audit. ``everbus.service.policy`` has the rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

from everbus.protocol.codes import ITEMS_PER_TABLE, MAX_FIFO_REGISTERS, DiagnosticCode, ExceptionCode
from everbus.protocol.pdu import bits, diagnostics, encapsulated, files, registers
from everbus.protocol.pdu.table import AnyRequest
from everbus.service.bank import TableName
from everbus.service.context import ConnectionInfo, RequestContext

__all__ = [
    "ALLOW_ALL",
    "FILES",
    "Access",
    "Admission",
    "AllowAll",
    "CompiledPolicy",
    "Decision",
    "Kind",
    "Policy",
    "Touch",
    "Verdict",
    "access_of",
    "admission",
    "everybody",
    "touched",
]

FILES: Final = "files"
"""Beside the four tables: files, whose addresses are their numbers."""


class Kind(StrEnum):
    """What a request does to what it touches."""

    READ = "read"
    WRITE = "write"
    OTHER = "other"
    """Nobody here knows: custom function codes, and CANopen behind 2B/0D."""


class Touch(NamedTuple):
    """A part of a request: something that it reads or writes.

    Args:
        kind: what it does there.
        table: one of the four tables, or ``files``; None: nothing that has addresses.
        start: first address, 0..65535; of files their number.
        end: first address behind it.
    """

    kind: Kind
    table: str | None = None
    start: int = 0
    end: int = 1


class Verdict(StrEnum):
    """How a policy decides."""

    ALLOWED = "allowed"
    DENIED = "denied"
    LIMITED = "limited"
    """Allowed, but not so often."""


class Decision(NamedTuple):
    """What a policy says of one request.

    Args:
        verdict: yes, no, or not so often.
        rule: the rule that decided; empty: the policy has no names for them.
        touch: the part of the request that is denied.
        lasting: requests of this connection that touch the same are decided alike for ever.
    """

    verdict: Verdict
    rule: str = ""
    touch: Touch | None = None
    lasting: bool = False

    @property
    def allowed(self) -> bool:
        """The request is executed."""
        return self.verdict is Verdict.ALLOWED

    @property
    def exception_code(self) -> ExceptionCode:
        """What is answered if it is not: 01 (R-31); 06 where the same request is welcome later.

        A client takes 01 for "this device cannot do that" and may never ask again.
        """
        if self.verdict is Verdict.LIMITED:
            return ExceptionCode.SERVER_DEVICE_BUSY
        return ExceptionCode.ILLEGAL_FUNCTION


class Admission(StrEnum):
    """What happens to a peer that connects."""

    ALLOW = "allow"
    REFUSE = "refuse"
    """It is closed before anything is read from it."""

    PRIORITY = "priority"
    """It is admitted when others are not, and never evicted, up to ``max_priority_connections``."""


class Policy(Protocol):
    """Decides about requests. The least that a policy of your own needs."""

    unconditional: bool
    """Every request is allowed, so that plain reads need not be decoded to be decided."""

    def allows(self, request: AnyRequest, context: RequestContext) -> bool:
        """Whether this request may be executed; if not it is answered with exception 01 (R-31)."""
        ...


class Access(Protocol):
    """What connections of one kind may do: a policy, once it knows who asks."""

    @property
    def policy(self) -> Policy:
        """Which one."""
        ...

    @property
    def known(self) -> Mapping[tuple[int, bytes], Decision]:
        """Requests that are allowed for ever, by unit and head of the PDU: a look-up in place of a decision."""
        ...

    def remember(self, unit: int, head: bytes, decision: Decision) -> None:
        """Requests that begin like this are allowed, and always will be."""
        ...

    def decide(self, request: AnyRequest, context: RequestContext, clock: Callable[[], float]) -> Decision:
        """Decide about one request; ``clock`` gives monotonic seconds, and is asked only for rates."""
        ...


@runtime_checkable
class CompiledPolicy(Policy, Protocol):
    """A policy that looks once at who asks, and decides about peers too."""

    def access(self, connection: ConnectionInfo) -> Access:
        """What this connection may do; asked once, and kept with the connection."""
        ...

    def admit(self, host: str) -> Admission:
        """What happens to a peer of this address, before anything is read; empty: it has none."""
        ...


@runtime_checkable
class EndpointPolicy(Protocol):
    """A policy that speaks of endpoints."""

    def strangers(self, endpoints: Iterable[str]) -> list[str]:
        """Endpoints that it names and that are none of these: what it says of them would be said of nobody."""
        ...


class AllowAll:
    """Everybody may do everything."""

    __slots__ = ()
    unconditional = True

    def allows(self, request: AnyRequest, context: RequestContext) -> bool:
        """Yes."""
        return True


ALLOW_ALL: Final = AllowAll()


def everybody(_: str) -> Admission:
    """Admit whoever comes."""
    return Admission.ALLOW


def admission(policy: Policy) -> Callable[[str], Admission]:
    """What decides about peers under this policy."""
    return policy.admit if isinstance(policy, CompiledPolicy) else everybody


def strangers(policy: Policy, endpoints: Iterable[str]) -> list[str]:
    """Endpoints that a policy names and that are none of a server's."""
    return policy.strangers(endpoints) if isinstance(policy, EndpointPolicy) else []


def access_of(policy: Policy, connection: ConnectionInfo) -> Access:
    """What a connection may do under this policy."""
    return policy.access(connection) if isinstance(policy, CompiledPolicy) else _Asked(policy)


class _Asked:
    """A policy that is asked each time."""

    __slots__ = ("policy",)
    known: Final[Mapping[tuple[int, bytes], Decision]] = {}

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def remember(self, unit: int, head: bytes, decision: Decision) -> None:
        raise AssertionError("no decision of such a policy lasts")  # pragma: no cover

    def decide(self, request: AnyRequest, context: RequestContext, clock: Callable[[], float]) -> Decision:
        if self.policy.allows(request, context):
            return _YES
        return Decision(Verdict.DENIED, touch=touched(request)[0])


_YES: Final = Decision(Verdict.ALLOWED)


# --- what a request touches ---------------------------------------------------------------------


def touched(request: AnyRequest) -> tuple[Touch, ...]:
    """The parts of a legal request, at least one.

    Reads: 01 to 04, 14, 18, and what asks about the device: 07, 0B, 0C, 11, 2B/0E, the questions of
    08. Writes: 05, 06, 0F, 10, 15, and what changes the device's state: 08/01, 03, 04, 0A and 14. Both:
    16, as what it leaves depends on what was there, and 17. A FIFO queue, 18, is its pointer and the
    31 holding registers behind it (AP 6.18).
    """
    parts = _PARTS.get(type(request))
    return parts(request) if parts is not None else _OTHER


_OTHER: Final = (Touch(Kind.OTHER),)
_ASKS: Final = (Touch(Kind.READ),)
_CHANGES: Final = (Touch(Kind.WRITE),)
_HOLDING: Final = TableName.HOLDING_REGISTERS
_CHANGING: Final = frozenset(
    {
        DiagnosticCode.RESTART_COMMUNICATIONS,
        DiagnosticCode.CHANGE_ASCII_DELIMITER,
        DiagnosticCode.FORCE_LISTEN_ONLY,
        DiagnosticCode.CLEAR_COUNTERS,
        DiagnosticCode.CLEAR_OVERRUN_COUNTER,
    }
)


_Parts = Callable[[Any], tuple[Touch, ...]]


def _block(kind: Kind, table: TableName) -> _Parts:
    """Items from ``address`` on."""
    return lambda request: (Touch(kind, table, request.address, request.address + request.quantity),)


def _item(*kinds: Kind, table: TableName) -> _Parts:
    """The item at ``address``."""
    return lambda request: tuple(Touch(kind, table, request.address, request.address + 1) for kind in kinds)


def _groups(kind: Kind) -> _Parts:
    return lambda request: tuple(Touch(kind, FILES, group.file, group.file + 1) for group in request.groups)


def _read_write(request: registers.ReadWriteMultipleRegistersRequest) -> tuple[Touch, ...]:
    return (
        Touch(Kind.READ, _HOLDING, request.read_address, request.read_address + request.read_quantity),
        Touch(Kind.WRITE, _HOLDING, request.write_address, request.write_address + request.write_quantity),
    )


def _queue(request: files.ReadFifoQueueRequest) -> tuple[Touch, ...]:
    end = min(request.address + 1 + MAX_FIFO_REGISTERS, ITEMS_PER_TABLE)
    return (Touch(Kind.READ, _HOLDING, request.address, end),)


def _diagnostics(request: diagnostics.DiagnosticsRequest) -> tuple[Touch, ...]:
    return _CHANGES if request.sub_function in _CHANGING else _ASKS


def _asks(_: AnyRequest) -> tuple[Touch, ...]:
    return _ASKS


_PARTS: Final[dict[type[AnyRequest], _Parts]] = {
    bits.ReadCoilsRequest: _block(Kind.READ, TableName.COILS),
    bits.ReadDiscreteInputsRequest: _block(Kind.READ, TableName.DISCRETE_INPUTS),
    registers.ReadHoldingRegistersRequest: _block(Kind.READ, _HOLDING),
    registers.ReadInputRegistersRequest: _block(Kind.READ, TableName.INPUT_REGISTERS),
    bits.WriteSingleCoilRequest: _item(Kind.WRITE, table=TableName.COILS),
    bits.WriteMultipleCoilsRequest: _block(Kind.WRITE, TableName.COILS),
    registers.WriteSingleRegisterRequest: _item(Kind.WRITE, table=_HOLDING),
    registers.WriteMultipleRegistersRequest: _block(Kind.WRITE, _HOLDING),
    registers.MaskWriteRegisterRequest: _item(Kind.READ, Kind.WRITE, table=_HOLDING),
    registers.ReadWriteMultipleRegistersRequest: _read_write,
    files.ReadFileRecordRequest: _groups(Kind.READ),
    files.WriteFileRecordRequest: _groups(Kind.WRITE),
    files.ReadFifoQueueRequest: _queue,
    diagnostics.DiagnosticsRequest: _diagnostics,
    diagnostics.ReadExceptionStatusRequest: _asks,
    diagnostics.GetCommEventCounterRequest: _asks,
    diagnostics.GetCommEventLogRequest: _asks,
    diagnostics.ReportServerIdRequest: _asks,
    encapsulated.ReadDeviceIdentificationRequest: _asks,
}
