"""What a scripted peer can do with one request: answer it, or misbehave in exactly one way.

A step is a function that takes the ``Turn``. Write your own from ``turn.adu``, ``turn.send`` and the
rest; a step may choose among others by what was asked::

    def script(turn: Turn) -> None:
        (silent if turn.number % 3 == 0 else answer)(turn)
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Final, Literal, Protocol

from everbus.errors import UsageError
from everbus.protocol.codes import EXCEPTION_BIT, FunctionCode
from everbus.protocol.framing.base import Frame, Framer
from everbus.protocol.framing.mbap import MbapFramer

__all__ = [
    "Channel",
    "Step",
    "Turn",
    "answer",
    "close",
    "drip",
    "duplicate",
    "exception",
    "glued",
    "hold",
    "late",
    "lying_byte_count",
    "partial",
    "pdu",
    "raw",
    "reset",
    "restart",
    "silent",
    "split",
    "swapped_transaction",
    "wrong_count",
    "wrong_echo",
    "wrong_function",
    "wrong_protocol",
    "wrong_transaction",
    "wrong_unit",
]

_VALUE_BYTES: Final[dict[int, int]] = {
    FunctionCode.READ_COILS: 1,
    FunctionCode.READ_DISCRETE_INPUTS: 1,
    FunctionCode.READ_HOLDING_REGISTERS: 2,
    FunctionCode.READ_INPUT_REGISTERS: 2,
    FunctionCode.READ_WRITE_MULTIPLE_REGISTERS: 2,
}
"""The answers that are a byte count and values."""

_ECHOES: Final = (
    FunctionCode.WRITE_SINGLE_COIL,
    FunctionCode.WRITE_SINGLE_REGISTER,
    FunctionCode.WRITE_MULTIPLE_COILS,
    FunctionCode.WRITE_MULTIPLE_REGISTERS,
    FunctionCode.MASK_WRITE_REGISTER,
)
"""The answers that repeat an address and a value or a quantity."""

_MOST_VALUE_BYTES: Final = 251


class Channel(Protocol):
    """The connection that a request came through, as its turn needs it."""

    framer: Framer
    kept: bytearray
    held: list[bytes]

    def send(self, data: bytes) -> None:
        """Send bytes now."""

    def later(self, after_s: float, data: bytes) -> None:
        """Send bytes after so many seconds, if the connection is still there."""

    def end(self, *, reset: bool = False) -> None:
        """Close the connection, or reset it."""

    def restart(self, after_s: float) -> None:
        """Restart the whole peer."""


class Turn:
    """One request, and what can be done about it.

    Args:
        channel: through which connection it came.
        frame: the request.
        right: the PDU of the right answer; empty where silence is right, as after a broadcast.
        number: of the request, 1 and up, over all connections.
    """

    def __init__(self, channel: Channel, frame: Frame, right: bytes, number: int) -> None:
        self._channel = channel
        self.frame: Frame = frame
        self.right: bytes = right
        self.number: int = number

    def adu(
        self,
        pdu: bytes | None = None,
        unit: int | None = None,
        transaction: int | None = None,
        protocol: int | None = None,
    ) -> bytes:
        """A whole frame: the right answer, but for what is given; empty where silence is right.

        Raises:
            UsageError: RTU frames have no transaction and no protocol.
        """
        pdu = self.right if pdu is None else pdu
        framer = self._channel.framer
        if (transaction is not None or protocol is not None) and not isinstance(framer, MbapFramer):
            raise UsageError("an RTU frame has no transaction id and no protocol id that could be wrong")
        if not pdu:
            return b""
        adu = framer.encode(
            self.frame.unit if unit is None else unit,
            pdu,
            self.frame.transaction if transaction is None else transaction,
        )
        return adu if protocol is None else adu[:2] + protocol.to_bytes(2) + adu[4:]

    def send(self, data: bytes, after_s: float = 0.0) -> None:
        """Send bytes: at once, behind what ``keep`` kept; or so many seconds later."""
        if after_s:
            self._channel.later(after_s, data)
        else:
            kept = bytes(self._channel.kept)
            self._channel.kept.clear()
            self._channel.send(kept + data)

    def keep(self, data: bytes) -> None:
        """Send these bytes in one piece with the next ones of this connection."""
        self._channel.kept += data

    def hold(self, data: bytes, size: int) -> None:
        """Send these bytes when ``size`` pieces are held on this connection, the last one first."""
        held = self._channel.held
        held.append(data)
        if len(held) >= size:
            self.send(b"".join(reversed(held)))
            held.clear()

    def end(self, *, reset: bool = False) -> None:
        """Close the connection, or reset it."""
        self._channel.end(reset=reset)

    def restart(self, after_s: float) -> None:
        """Close all connections and the listening socket; listen there again so many seconds later."""
        self._channel.restart(after_s)


Step = Callable[[Turn], None]


def answer(turn: Turn) -> None:
    """Answer truthfully."""
    turn.send(turn.adu())


def silent(turn: Turn) -> None:
    """Do not answer."""


def close(turn: Turn) -> None:
    """Close the connection instead of answering."""
    turn.end()


def reset(turn: Turn) -> None:
    """Reset the connection instead of answering."""
    turn.end(reset=True)


def restart(after_s: float = 0.0) -> Step:
    """Restart the peer instead of answering: nobody listens for so many seconds."""
    return lambda turn: turn.restart(after_s)


def glued(turn: Turn) -> None:
    """Answer in one piece with the next answer of this connection."""
    turn.keep(turn.adu())


def hold(size: int) -> Step:
    """Answer when so many requests of this connection are held, the last one first: ``[hold(3)] * 3``.

    Nothing is sent before that: the client must have as many requests in flight.
    """
    return lambda turn: turn.hold(turn.adu(), size)


def late(by_s: float) -> Step:
    """Answer truthfully, but so much later; others may overtake it."""
    return lambda turn: turn.send(turn.adu(), by_s)


def duplicate(times: int = 2) -> Step:
    """Send the right answer several times."""
    return lambda turn: turn.send(turn.adu() * times)


def wrong_transaction(offset: int = 1, *, value: int | None = None) -> Step:
    """Answer with another transaction id: so far from the right one, or this one, 0..65535. Not for RTU."""

    def step(turn: Turn) -> None:
        turn.send(turn.adu(transaction=(turn.frame.transaction + offset) % 0x10000 if value is None else value))

    return step


def swapped_transaction(turn: Turn) -> None:
    """Answer with the two bytes of the transaction id swapped; 0101 and its like stay right. Not for RTU."""
    turn.send(turn.adu(transaction=int.from_bytes(turn.frame.transaction.to_bytes(2), "little")))


def wrong_protocol(protocol: int = 7) -> Step:
    """Answer with this protocol id in the header, 0..65535. Not for RTU."""
    return lambda turn: turn.send(turn.adu(protocol=protocol))


def wrong_unit(unit: int) -> Step:
    """Answer as another unit."""
    return lambda turn: turn.send(turn.adu(unit=unit))


def wrong_function(function: int) -> Step:
    """Answer with another function code, 0..255, before the right data."""
    return lambda turn: turn.send(turn.adu(bytes((function,)) + turn.right[1:]))


def wrong_count(by: int = -1) -> Step:
    """Answer a read with more or fewer values than asked for, and the byte count that fits them.

    Args:
        by: how many registers more (zeros) or fewer; for coils and discrete inputs, bytes of eight.

    Raises:
        UsageError: 0 is no wrong count. Leaving the peer raises it for an answer that is no read's,
            or that has no room.
    """
    if not by:
        raise UsageError("wrong_count(0) would be the right count: give more, as in 3, or fewer, as in -1")

    def step(turn: Turn) -> None:
        values = _values(turn)
        size = len(values) + by * _VALUE_BYTES[turn.right[0]]
        if not 0 <= size <= _MOST_VALUE_BYTES:
            raise UsageError(f"wrong_count({by}): {size} bytes of values are outside 0..{_MOST_VALUE_BYTES}")
        turn.send(turn.adu(bytes((turn.right[0], size)) + (values + bytes(max(0, by * 2)))[:size]))

    return step


def lying_byte_count(count: int) -> Step:
    """Answer a read with the right values behind a byte count, 0..255, that is not theirs.

    Leaving the peer raises UsageError for an answer that is no read's.
    """
    return lambda turn: turn.send(turn.adu(turn.right[:1] + bytes((count,)) + _values(turn)))


def wrong_echo(field: Literal["address", "value"] = "address") -> Step:
    """Answer a write with another address, or another value (of function 0F and 10: quantity), than written.

    Leaving the peer raises UsageError for an answer that is no write's.
    """

    def step(turn: Turn) -> None:
        if _function(turn) not in _ECHOES:
            raise UsageError(f"wrong_echo needs the answer to a write; this one is {turn.right.hex(' ') or 'silence'}")
        echo = bytearray(turn.right)
        if field == "value" and echo[0] == FunctionCode.WRITE_SINGLE_COIL:
            echo[3] ^= 0xFF  # on becomes off: any other change would be no coil's value
        else:
            echo[2 if field == "address" else 4] ^= 1
        turn.send(turn.adu(bytes(echo)))

    return step


def _values(turn: Turn) -> bytes:
    if _function(turn) not in _VALUE_BYTES:
        raise UsageError(f"a wrong count needs the answer to a read; this one is {turn.right.hex(' ') or 'silence'}")
    return turn.right[2:]


def _function(turn: Turn) -> int:
    return turn.right[0] if turn.right else 0


def pdu(data: bytes) -> Step:
    """Answer with this PDU in the right frame."""
    return lambda turn: turn.send(turn.adu(data))


def exception(code: int, function: int | None = None) -> Step:
    """Answer with an exception, of another function if one is given."""

    def step(turn: Turn) -> None:
        asked = turn.frame.pdu[0] if function is None else function
        turn.send(turn.adu(bytes((asked | EXCEPTION_BIT, code))))

    return step


def raw(data: bytes) -> Step:
    """Send these bytes instead of an answer."""
    return lambda turn: turn.send(data)


def partial(size: int, *, then_close: bool = False) -> Step:
    """Send the first bytes of the right answer, then nothing more; or close the connection."""

    def step(turn: Turn) -> None:
        turn.send(turn.adu()[:size])
        if then_close:
            turn.end()

    return step


def split(*at: int, every_s: float = 0.02) -> Step:
    """Send the right answer in pieces, cut before these bytes, so many seconds from piece to piece."""

    def step(turn: Turn) -> None:
        adu = turn.adu()
        cuts = [0, *sorted(at), len(adu)]
        for number, (start, end) in enumerate(pairwise(cuts)):
            turn.send(adu[start:end], number * every_s)

    return step


def drip(every_s: float) -> Step:
    """Send the right answer a byte at a time."""

    def step(turn: Turn) -> None:
        for position, byte in enumerate(turn.adu()):
            turn.send(bytes((byte,)), (position + 1) * every_s)

    return step
