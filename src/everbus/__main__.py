"""``python -m everbus`` is the command line."""

from __future__ import annotations

import sys

from everbus.cli.entry import main

if __name__ == "__main__":
    sys.exit(main())
