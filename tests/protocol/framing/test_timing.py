from __future__ import annotations

import pytest

from everbus.protocol.framing.timing import BETWEEN_FRAMES, INSIDE_FRAMES, silent_interval_s


@pytest.mark.parametrize(
    ("baudrate", "inside_ms", "between_ms"),
    [
        (1200, 13.750, 32.083),
        (2400, 6.875, 16.042),
        (4800, 3.4375, 8.0208),
        (9600, 1.7188, 4.0104),
        (14400, 1.1458, 2.6736),
        (19200, 0.8594, 2.0052),
        (38400, 0.750, 1.750),
        (57600, 0.750, 1.750),
        (115200, 0.750, 1.750),
    ],
)
@pytest.mark.requirement("SL-2.5.1.1-times")
def test_intervals_are_those_of_the_specification(baudrate: int, inside_ms: float, between_ms: float) -> None:
    assert silent_interval_s(INSIDE_FRAMES, baudrate) * 1000 == pytest.approx(inside_ms, abs=0.0005)
    assert silent_interval_s(BETWEEN_FRAMES, baudrate) * 1000 == pytest.approx(between_ms, abs=0.0005)
