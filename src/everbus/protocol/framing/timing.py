"""The silent intervals of RTU (SL 2.5.1.1; spec.md 5.3)."""

from __future__ import annotations

from typing import Final

__all__ = ["BETWEEN_FRAMES", "INSIDE_FRAMES", "silent_interval_s"]

INSIDE_FRAMES: Final = 1.5
"""Characters of silence that a frame may have inside, at most."""

BETWEEN_FRAMES: Final = 3.5
"""Characters of silence between two frames, at least."""

_CHARACTER_BITS: Final = 11
_MOST_EXACT_BAUD: Final = 19200
_FAST_CHARACTER_S: Final = 0.0005


def silent_interval_s(characters: float, baudrate: int) -> float:
    """How long so many characters take, in seconds; above 19200 bit/s the fixed times of the specification.

    Args:
        characters: ``INSIDE_FRAMES`` or ``BETWEEN_FRAMES``, t1.5 and t3.5 of the specification.
        baudrate: bits per second, above 0.
    """
    if baudrate > _MOST_EXACT_BAUD:
        return characters * _FAST_CHARACTER_S
    return characters * _CHARACTER_BITS / baudrate
