"""A harness with an invariant that everbus does not keep: what atheris must find within seconds, from nothing."""

from __future__ import annotations

from everbus.protocol.framing.mbap import MbapFramer
from tests.fuzz.driver import drive


def check(data: bytes) -> None:
    """Claim that no bytes are a frame."""
    assert not MbapFramer().feed(data), "no frame is good enough"


if __name__ == "__main__":
    drive("tests.fuzz.broken")
