"""Where the ``everbus`` command begins: what must be quick is answered before anything is loaded."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from everbus import __version__
from everbus.cli.output import write_text

__all__ = ["main"]

_USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code.

    Args:
        arguments: without the program's name; by default those of the process.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given == ["--version"]:
        write_text(f"everbus {__version__}")
        return 0
    try:
        from everbus.cli.main import run  # noqa: PLC0415  the version must not wait for it

        return run(given)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "everbus":
            raise
        sys.stderr.write(f"error: the command line needs {error.name}; try: pip install 'everbus[cli]'\n")
        return _USAGE
