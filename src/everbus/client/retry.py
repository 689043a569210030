"""What may be repeated, and how long to wait before trying again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from everbus.client.options import ClientOptions
from everbus.errors import ClientClosedError, ConnectError, ExceptionResponseError, ModbusError, UsageError
from everbus.protocol.codes import DiagnosticCode, ExceptionCode, FunctionCode
from everbus.protocol.pdu.diagnostics import DiagnosticsRequest
from everbus.protocol.pdu.encapsulated import ReadDeviceIdentificationRequest
from everbus.protocol.pdu.table import AnyRequest

__all__ = ["Backoff", "changes_nothing", "pause_before_retry_s"]

FIRST_BACKOFF_S: Final = 0.1
MOST_BACKOFF_S: Final = 30.0
_SETTLED_S: Final = 1.0
"""A connection that lasts so long was one."""

_READS: Final = frozenset(
    {
        FunctionCode.READ_COILS,
        FunctionCode.READ_DISCRETE_INPUTS,
        FunctionCode.READ_HOLDING_REGISTERS,
        FunctionCode.READ_INPUT_REGISTERS,
        FunctionCode.READ_EXCEPTION_STATUS,
        FunctionCode.GET_COMM_EVENT_COUNTER,
        FunctionCode.GET_COMM_EVENT_LOG,
        FunctionCode.REPORT_SERVER_ID,
        FunctionCode.READ_FILE_RECORD,
        FunctionCode.READ_FIFO_QUEUE,
    }
)
_CHANGING_DIAGNOSTICS: Final = frozenset(
    {
        DiagnosticCode.RESTART_COMMUNICATIONS,
        DiagnosticCode.CHANGE_ASCII_DELIMITER,
        DiagnosticCode.FORCE_LISTEN_ONLY,
        DiagnosticCode.CLEAR_COUNTERS,
        DiagnosticCode.CLEAR_OVERRUN_COUNTER,
    }
)


def changes_nothing(request: AnyRequest) -> bool:
    """Whether a device may carry a request out twice without harm; custom functions are not trusted to."""
    if isinstance(request, DiagnosticsRequest):
        return request.sub_function not in _CHANGING_DIAGNOSTICS
    return request.function_code in _READS or isinstance(request, ReadDeviceIdentificationRequest)


def pause_before_retry_s(error: ModbusError, request: AnyRequest, sent: bool, options: ClientOptions) -> float | None:
    """How long to wait before a request is made once more; None: its error is the caller's.

    Args:
        error: what became of the last attempt.
        request: what was asked.
        sent: the device may have got it.
        options: says what else may be repeated.
    """
    if isinstance(error, (UsageError, ClientClosedError)):
        return None
    if isinstance(error, ExceptionResponseError):
        return options.retry_busy_s if error.code == ExceptionCode.SERVER_DEVICE_BUSY else None
    if not sent or options.retry_writes or changes_nothing(request):
        return FIRST_BACKOFF_S if isinstance(error, ConnectError) else 0.0
    return None


class Backoff:
    """How long to leave a peer alone that cannot be reached: 0.1 s, doubling to 30 s, with jitter.

    A connection that the peer ends soon, without an answer, counts as one that could not be made: no
    busy loop of connects.

    Args:
        random: gives numbers of 0..1, so that many clients do not come back at once.
        most_s: the longest pause.
    """

    __slots__ = ("_connected_at", "_most_s", "_next_s", "_random", "last_error", "not_before")

    def __init__(self, random: Callable[[], float], most_s: float = MOST_BACKOFF_S) -> None:
        self._random = random
        self._most_s = most_s
        self._next_s = 0.0
        self._connected_at = 0.0
        self.not_before: float = 0.0
        """When to try again, in seconds of the caller's clock."""
        self.last_error: ModbusError | None = None
        """Why the last try failed, if it did."""

    def pause_s(self, now: float, until: float) -> float:
        """How long to wait before a try: for whoever has until then, at most half of that time."""
        return max(0.0, min(self.not_before - now, (until - now) / 2))

    def failed(self, now: float, error: ModbusError | None = None) -> None:
        """Another try failed: the next comes after between half and all of the pause, which doubles."""
        self.last_error = error
        self._next_s = min(self._most_s, self._next_s * 2 or FIRST_BACKOFF_S)
        self.not_before = now + self._next_s * (0.5 + 0.5 * self._random())

    def connected(self, now: float) -> None:
        """A connection is there."""
        self.last_error = None
        self._connected_at = now

    def ended(self, now: float, *, answered: bool, by_peer: bool) -> None:
        """It has ended: whether it ever carried an answer, and whether that was the peer's doing."""
        if answered or now - self._connected_at >= _SETTLED_S:
            self._next_s = 0.0
        elif by_peer:
            self.failed(now)
