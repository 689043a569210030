"""Tools to test programs that speak Modbus, and everbus itself.

Nothing in the package imports this; it may change faster than the rest.
"""

from __future__ import annotations

from everbus.testing.framers import check_framer
from everbus.testing.handlers import ask
from everbus.testing.leaks import Snapshot, no_leaked_tasks, no_leaks, snapshot
from everbus.testing.observers import RecordingObserver
from everbus.testing.scripted import ScriptedPeer

__all__ = [
    "RecordingObserver",
    "ScriptedPeer",
    "Snapshot",
    "ask",
    "check_framer",
    "no_leaked_tasks",
    "no_leaks",
    "snapshot",
]
