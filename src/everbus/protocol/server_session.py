"""The state of one conversation, seen from the server: requests in, replies out.

The session knows how many requests wait for their answers and which ones came while no more could
run. It never runs a handler: it returns frames, and the host decides.
"""

from __future__ import annotations

from collections.abc import Callable

from everbus.errors import FramingError, ServerStateError
from everbus.protocol.framing.base import Frame, Framer

__all__ = ["ServerSession"]


class ServerSession:
    """Frames of one connection, and the cap on requests whose answers come later.

    Args:
        framer: parses this connection's bytes; belongs to the session from now on.
        max_in_flight: requests that may wait at once; from then on the host stops reading.
    """

    __slots__ = ("_framer", "_held", "_in_flight", "_max_in_flight", "_next_token", "receive", "reply")

    def __init__(self, framer: Framer, max_in_flight: int = 16) -> None:
        self._framer = framer
        self._max_in_flight = max_in_flight
        self._in_flight: dict[int, Frame] = {}
        self._held: list[Frame] = []
        self._next_token = 0
        self.receive: Callable[[bytes | bytearray | memoryview], list[Frame]] = framer.feed
        """Take in what was read; return the requests that are complete with it, in order."""
        self.reply: Callable[[int, bytes, int], bytes] = framer.encode
        """The frame that answers a request at once: its unit, the response PDU, its transaction."""

    @property
    def fault(self) -> FramingError | None:
        """Set once the stream cannot be trusted: answer what came before it, then close."""
        return self._framer.fault

    @property
    def partial(self) -> bool:
        """The first bytes of a frame are there and its last are not."""
        return self._framer.pending > 0

    @property
    def in_flight(self) -> int:
        """Requests whose answers come later."""
        return len(self._in_flight)

    @property
    def full(self) -> bool:
        """No further request may wait: stop reading."""
        return len(self._in_flight) >= self._max_in_flight

    @property
    def busy(self) -> bool:
        """Something was asked that is not answered yet."""
        return bool(self._in_flight or self._held)

    def defer(self, frame: Frame) -> int:
        """Note that a request's answer comes later; return the token to finish it with.

        Raises:
            ServerStateError: ``full`` was true.
        """
        if self.full:
            raise ServerStateError(f"{self._max_in_flight} requests wait already: hold this one")
        self._next_token += 1
        self._in_flight[self._next_token] = frame
        return self._next_token

    def finish(self, token: int, pdu: bytes | None) -> bytes:
        """The frame that answers a deferred request; nothing if it stays unanswered.

        Raises:
            ServerStateError: the token was finished before, or never given out.
        """
        frame = self._in_flight.pop(token, None)
        if frame is None:
            raise ServerStateError(f"request {token} is not in flight")
        return b"" if pdu is None else self.reply(frame.unit, pdu, frame.transaction)

    def hold(self, frames: list[Frame]) -> None:
        """Keep requests that arrived while ``full``; bounded by one read, as reading stops."""
        self._held += frames

    def release(self) -> list[Frame]:
        """Give back the requests that were held, in order."""
        held, self._held = self._held, []
        return held
