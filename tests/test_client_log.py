from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from everbus.client_log import ClientLog
from everbus.observe import Event, EventKind

LOST = Event(EventKind.CLIENT_LOST, "tcp://192.0.2.7:502", detail="connection reset")


def test_events_become_lines_at_a_bounded_rate(caplog: pytest.LogCaptureFixture) -> None:
    log = ClientLog()
    log.tick(0.0)
    with caplog.at_level(logging.INFO, "everbus.client"):
        for _ in range(100):
            log.notify(LOST)
        log.notify(Event(EventKind.CLIENT_CONNECTED, "tcp://192.0.2.7:502", "again"))
    assert [record.getMessage() for record in caplog.records] == [
        *["client lost: tcp://192.0.2.7:502, connection reset"] * 3,
        "client connected (again): tcp://192.0.2.7:502",
    ]


def test_a_program_without_logging_stays_without_it_and_is_told_nothing() -> None:
    program = """
import sys
from everbus.client_log import ClientLog
from everbus.observe import Event, EventKind
log = ClientLog()
log.notify(Event(EventKind.CLIENT_LOST))
assert "logging" not in sys.modules
import logging
log.notify(Event(EventKind.CLIENT_LOST))
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stderr == ""
