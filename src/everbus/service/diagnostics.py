"""Counters and event log of one unit (SL appendix A; AP 6.8 to 6.10; spec.md 1.5, 1.6, 5.8)."""

from __future__ import annotations

from collections import deque
from typing import Final

from everbus.protocol.codes import MAX_EVENT_LOG_BYTES, DiagnosticCode, ExceptionCode, FunctionCode

__all__ = ["Diagnostics"]

_RECEIVED: Final = 0x80
_RECEIVED_MISHEARD: Final = 0x02
_RECEIVED_OVERRUN: Final = 0x10
_RECEIVED_BROADCAST: Final = 0x40
_RECEIVED_LISTEN_ONLY: Final = 0x20
_SENT: Final = 0x40
_SENT_LISTEN_ONLY: Final = 0x20
_SENT_IN_VAIN: Final = 0x10
_KIND: Final = 0xC0
_ENTERED_LISTEN_ONLY: Final = 0x04
_RESTARTED: Final = 0x00
_SENT_EXCEPTION: Final = {1: 0x01, 2: 0x01, 3: 0x01, 4: 0x02, 5: 0x04, 6: 0x04, 7: 0x08}
"""Bits of a send event, by exception code (AP 6.10)."""

_RESTARTS: Final = frozenset(
    bytes((FunctionCode.DIAGNOSTICS, 0, DiagnosticCode.RESTART_COMMUNICATIONS, option, 0)) for option in (0x00, 0xFF)
)
_WORD: Final = 0xFFFF


class Diagnostics:
    """Counts messages of one unit and logs them, as 08, 0B and 0C report it.

    Counters have 16 bits and wrap. Each message is noted twice: ``received`` before it is
    processed, ``completed`` after. A plain read that took the short way only adds one to ``reads``;
    it is noted when somebody looks, or before the next message that is noted whole.
    """

    __slots__ = (
        "_cleared",
        "_log",
        "_noted",
        "broadcast",
        "bus_comm_errors",
        "bus_exceptions",
        "bus_messages",
        "busy",
        "character_overruns",
        "diagnostic_register",
        "event_count",
        "listen_only",
        "nak",
        "no_responses",
        "reads",
        "server_messages",
    )

    def __init__(self) -> None:
        self.reads: int = 0
        """Plain reads that were received and answered, and are not noted yet."""
        self._log: deque[int] = deque(maxlen=MAX_EVENT_LOG_BYTES)
        self._cleared = False
        self._noted = False
        self.broadcast: bool = False
        """What is being processed is meant for all: nobody answers it."""
        self.diagnostic_register: int = 0
        self.listen_only: bool = False
        self._zero()

    def _zero(self) -> None:
        self.bus_messages: int = 0
        self.bus_comm_errors: int = 0
        self.bus_exceptions: int = 0
        self.server_messages: int = 0
        self.no_responses: int = 0
        self.nak: int = 0
        self.busy: int = 0
        self.character_overruns: int = 0
        self.event_count: int = 0

    @property
    def log(self) -> bytes:
        """The event log, newest first, 0..64 bytes."""
        self._note_reads()
        return bytes(self._log)

    def counter(self, sub_function: int) -> int:
        """The counter that a sub-function of 08 reports, 0..65535.

        Raises:
            KeyError: the sub-function reports none.
        """
        self._note_reads()
        return _counters(self)[sub_function] & _WORD

    @property
    def events(self) -> int:
        """The event counter of 0B, 0..65535."""
        self._note_reads()
        return self.event_count & _WORD

    @property
    def messages(self) -> int:
        """The message count of 0C, which is the bus message count of 08/0B."""
        self._note_reads()
        return self.bus_messages & _WORD

    def received(self, pdu: bytes) -> bool:
        """Note a message for this unit; tell whether it may be processed.

        In listen-only mode everything but a restart is only monitored (spec.md 5.9).
        """
        self._cleared = self._noted = False
        self._note_reads()
        self.bus_messages += 1
        self.server_messages += 1
        self._log.appendleft(self._receive_event | (_RECEIVED_BROADCAST if self.broadcast else 0))
        if not self.listen_only or pdu in _RESTARTS:
            return True
        self.no_responses += 1
        return False

    @property
    def _receive_event(self) -> int:
        return _RECEIVED | (_RECEIVED_LISTEN_ONLY if self.listen_only else 0)

    def overheard(self, messages: int = 1) -> None:
        """Note good messages on the line that were for others."""
        self.bus_messages += messages

    def misheard(self, frames: int, overruns: int) -> None:
        """Note frames on the line that were not good, and characters that were lost.

        Args:
            frames: how many were not good.
            overruns: how many characters hardware or driver lost meanwhile.
        """
        self._note_reads()
        self.bus_comm_errors += frames
        self.character_overruns += overruns
        event = self._receive_event | _RECEIVED_MISHEARD | (_RECEIVED_OVERRUN if overruns else 0)
        self._log.extendleft([event] * min(frames, MAX_EVENT_LOG_BYTES))

    def completed(self, function_code: int, exception_code: int = 0, *, answered: bool = True) -> None:
        """Note how a message ended.

        Args:
            function_code: the request's.
            exception_code: what was answered; 0: a normal response.
            answered: whether anything was sent.
        """
        if self._noted:  # it wrote its own events
            return
        event = _SENT | _SENT_EXCEPTION.get(exception_code, 0)
        self._log.appendleft(event | (_SENT_LISTEN_ONLY if self.listen_only else 0))
        if self._cleared:  # what cleared the counters is not the first thing they count
            return
        if not answered or self.broadcast:
            self.no_responses += 1
        if exception_code:
            self.bus_exceptions += 1
            self.nak += exception_code == ExceptionCode.NEGATIVE_ACKNOWLEDGE
            self.busy += exception_code == ExceptionCode.SERVER_DEVICE_BUSY
        elif function_code != FunctionCode.GET_COMM_EVENT_COUNTER:
            self.event_count += 1

    def unsent(self, *, timed_out: bool) -> None:
        """Note that the answer to the last message did not leave.

        Args:
            timed_out: it could not; else it was given up before.
        """
        self._note_reads()
        self.no_responses += 1
        if timed_out and self._log and self._log[0] & _KIND == _SENT:
            self._log[0] |= _SENT_IN_VAIN

    def _note_reads(self) -> None:
        reads, self.reads = self.reads, 0
        self.bus_messages += reads
        self.server_messages += reads
        self.event_count += reads
        self._log.extendleft((_RECEIVED, _SENT) * min(reads, MAX_EVENT_LOG_BYTES // 2))

    def clear(self) -> None:
        """Zero the counters and the diagnostic register (08/0A)."""
        self._note_reads()
        self._zero()
        self.diagnostic_register = 0
        self._cleared = True

    def restart(self, *, clear_log: bool) -> bool:
        """Restart communications (08/01); tell whether it may be answered.

        It clears the counters, leaves listen-only mode, and is silent if it was in that mode.
        """
        answer = not self.listen_only
        self.listen_only = False
        self.clear()
        if answer:
            self._log.appendleft(_SENT)  # the response leaves before the restart
        if clear_log:
            self._log.clear()
        self._log.appendleft(_RESTARTED)
        self._noted = True
        return answer

    def force_listen_only(self) -> None:
        """Enter listen-only mode (08/04)."""
        self.listen_only = True
        self.no_responses += 1
        self._noted = True
        self._log.appendleft(_ENTERED_LISTEN_ONLY)


def _counters(diagnostics: Diagnostics) -> dict[int, int]:
    return {
        DiagnosticCode.BUS_MESSAGE_COUNT: diagnostics.bus_messages,
        DiagnosticCode.BUS_COMM_ERROR_COUNT: diagnostics.bus_comm_errors,
        DiagnosticCode.BUS_EXCEPTION_ERROR_COUNT: diagnostics.bus_exceptions,
        DiagnosticCode.SERVER_MESSAGE_COUNT: diagnostics.server_messages,
        DiagnosticCode.SERVER_NO_RESPONSE_COUNT: diagnostics.no_responses,
        DiagnosticCode.SERVER_NAK_COUNT: diagnostics.nak,
        DiagnosticCode.SERVER_BUSY_COUNT: diagnostics.busy,
        DiagnosticCode.BUS_CHAR_OVERRUN_COUNT: diagnostics.character_overruns,
    }
