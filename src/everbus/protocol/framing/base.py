"""What every framer does: bytes in, whole frames out, at any split.

A framer never raises on what a peer sends. Where a stream can be trusted again it resynchronises
and counts; where it cannot (MBAP), ``fault`` is set and the host closes the connection, after it
has answered the frames that came before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from everbus.errors import FramingError

__all__ = ["Frame", "Framer", "FramerStatistics"]


class Frame(NamedTuple):
    """One PDU and the addressing around it.

    Args:
        unit: unit identifier or serial address, 0..255.
        pdu: function code and data, 1..253 bytes.
        transaction: MBAP transaction id, 0..65535; always 0 on serial framings.
    """

    unit: int
    pdu: bytes
    transaction: int = 0


@dataclass(frozen=True, slots=True)
class FramerStatistics:
    """What a framer has seen since it was made.

    Args:
        frames: whole frames given out.
        checksum_errors: frames of the right form whose CRC or LRC was wrong.
        malformed: frames of the wrong form, over-long ones included.
        discarded_bytes: bytes that belonged to no good frame.
        answers: whole frames that were not given out, as they are other devices' answers.
    """

    frames: int = 0
    checksum_errors: int = 0
    malformed: int = 0
    discarded_bytes: int = 0
    answers: int = 0


class Framer(Protocol):
    """Incremental parser and builder of one framing."""

    @property
    def fault(self) -> FramingError | None:
        """Set once the stream cannot be trusted any more; nothing is given out after that."""
        ...

    @property
    def pending(self) -> int:
        """Bytes held of an unfinished frame; bounded by the framing's largest frame."""
        ...

    @property
    def pending_transaction(self) -> int | None:
        """The transaction id of the unfinished frame; None: not known yet, or there is none."""
        ...

    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        """Take in what was read; return the frames that are complete with it, in order.

        What is kept is copied: the caller may reuse its buffer.
        """
        ...

    def gap(self) -> list[Frame]:
        """The line was silent for longer than a frame allows: what is held is complete or lost."""
        ...

    def encode(self, unit: int, pdu: bytes, transaction: int = 0) -> bytes:
        """The whole frame, ready to be sent in one write."""
        ...

    def statistics(self) -> FramerStatistics:
        """A snapshot of what was seen."""
        ...
