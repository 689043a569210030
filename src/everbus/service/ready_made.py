"""Policies to begin with, as files: print one (``everbus policy show operator``), change it, use it.

They know people by the role of their TLS certificate; nothing in the code knows these roles.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["READY_MADE"]

READY_MADE: Final[Mapping[str, str]] = {
    "read-only": """\
# Everybody reads, nobody writes.

[[rule]]
name = "all read"
functions = "read"
""",
    "operator": """\
# Everybody reads; operators and engineers also write coils and holding registers.
# Roles are those of TLS certificates: everbus cert client --role Operator

[[rule]]
name = "operators write coils and holding registers"
roles = ["Operator", "Engineer"]
functions = "write"
ranges = ["c", "h"]

[[rule]]
name = "all read"
functions = "read"
""",
    "engineer": """\
# Everybody reads; operators also write coils and holding registers; engineers do everything,
# diagnostics, file records and custom function codes included.
# Roles are those of TLS certificates: everbus cert client --role Engineer

[[rule]]
name = "engineers do everything"
roles = "Engineer"

[[rule]]
name = "operators write coils and holding registers"
roles = "Operator"
functions = "write"
ranges = ["c", "h"]

[[rule]]
name = "all read"
functions = "read"
""",
}
"""The text of each, by name."""
