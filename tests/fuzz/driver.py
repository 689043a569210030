"""Drives a harness with atheris: its Python code is instrumented, libFuzzer looks for what it has not seen.

A harness is a module with ``check(data)``, which raises on a finding. It needs nothing of atheris, which is
imported here and late: it exists for Linux alone, and not for every Python.
"""

from __future__ import annotations

import importlib
import sys

__all__ = ["ARGUMENTS", "drive"]

ARGUMENTS = ("-timeout=20", "-rss_limit_mb=1024", "-print_final_stats=1")
"""For libFuzzer, unless told otherwise: what is slower or takes more memory is a finding."""

_AGAIN = ("everbus", "tests.fuzz")


def drive(module: str, most_bytes: int = 300) -> None:
    """Fuzz with the arguments of this process, libFuzzer's own; never returns.

    Args:
        module: the harness, by its full name.
        most_bytes: longer inputs are not tried: a little more than the largest frame is enough.
    """
    atheris = importlib.import_module("atheris")
    for name in [name for name in sys.modules if name.startswith(_AGAIN)]:
        del sys.modules[name]  # imported before: once more, instrumented
    with atheris.instrument_imports(include=["everbus"]):
        check = importlib.import_module(module).check
    atheris.Setup([sys.argv[0], *ARGUMENTS, f"-max_len={most_bytes}", *sys.argv[1:]], check)
    atheris.Fuzz()
