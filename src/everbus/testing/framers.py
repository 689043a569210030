"""The contract of every framer, as a check that any implementation can be put through."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from everbus.protocol.framing.base import Frame, Framer

__all__ = ["check_framer"]


def check_framer(make_framer: Callable[[], Framer], wire: bytes, frames: Sequence[Frame], most_pending: int) -> None:
    """Feed bytes whole, one by one, and split at every place: the same frames must come out.

    Args:
        make_framer: makes a new one for each way of feeding.
        wire: the bytes.
        frames: what must come out, in order.
        most_pending: the most that may ever be held, in bytes.

    Raises:
        AssertionError: they differ, or too much was held.
    """
    ways: list[Iterable[bytes]] = [[wire], [wire[at : at + 1] for at in range(len(wire))]]
    ways += [[wire[:at], wire[at:]] for at in range(1, len(wire))]
    for number, chunks in enumerate(ways):
        framer = make_framer()
        found: list[Frame] = []
        for chunk in chunks:
            buffer = bytearray(chunk)
            found += framer.feed(memoryview(buffer))
            buffer[:] = bytes(len(buffer))  # what is kept must be a copy
            assert framer.pending <= most_pending, f"way {number}: holds {framer.pending} bytes"
        assert found == list(frames), f"way {number}: {found} is not {list(frames)}"
