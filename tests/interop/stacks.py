"""Which foreign stacks are tested, in which role, with which kinds of steps: the one place that says so.

``python -m tests.interop.stacks`` prints ``docs/interop.md``; a test keeps that page true.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tests.interop.ours import KINDS
from tests.interop.plan import CODES, PLAIN
from tools.environments import PYMODBUS, PYMODBUSTCP, TMODBUS

__all__ = [
    "JSMODBUS_CLIENT",
    "LIBMODBUS_CLIENT",
    "LIBMODBUS_SERVER",
    "MBPOLL",
    "MODBUS_SERIAL_CLIENT",
    "PYMODBUSTCP_CLIENT",
    "PYMODBUSTCP_SERVER",
    "PYMODBUS_CLIENT",
    "PYMODBUS_SERVER",
    "STACKS",
    "TMODBUS_CLIENT",
    "TMODBUS_SERVER",
    "TSHARK",
    "page",
]


@dataclass(frozen=True)
class Stack:
    """One side of a test.

    Args:
        name: of the project.
        version: of what is installed; the distribution's where it comes from Debian.
        role: what it is to everbus.
        kinds: the steps of the plan that it takes, or answers in its own way.
    """

    name: str
    version: str
    role: str
    kinds: frozenset[str]

    @property
    def codes(self) -> str:
        """Its function codes in order, those of sub-functions in brackets."""
        found: dict[str, list[str]] = {}
        for code, _, sub in sorted(CODES[kind].partition("/") for kind in self.kinds - {"custom"}):
            subs = found.setdefault(code, [])
            subs += [sub] if sub and sub not in subs else []
        return " ".join(f"{code} ({' '.join(subs)})" if subs else code for code, subs in found.items())


def _of(requirement: str, role: str, kinds: frozenset[str]) -> Stack:
    name, _, version = requirement.partition("==")
    return Stack(name, version, role, kinds)


_ALL: Final = frozenset(CODES)
_MASK: Final = frozenset({"mask_write"})
_OTHER: Final = frozenset({"other_unit"})

MBPOLL: Final = Stack("mbpoll", "Debian's", "client", PLAIN - {"read_write"} | _OTHER)
LIBMODBUS_CLIENT: Final = Stack(
    "libmodbus", "Debian's", "client in C", PLAIN | _MASK | _OTHER | {"server_id", "custom"}
)
LIBMODBUS_SERVER: Final = Stack("libmodbus", "Debian's", "server in C", PLAIN | _MASK | _OTHER | {"server_id"})
PYMODBUS_CLIENT: Final = _of(PYMODBUS, "client, sync and async", _ALL - {"custom", "identify_all"})
PYMODBUS_SERVER: Final = _of(PYMODBUS, "server", KINDS)
PYMODBUSTCP_CLIENT: Final = _of(PYMODBUSTCP, "client", PLAIN | _OTHER | {"identify", "custom"})
PYMODBUSTCP_SERVER: Final = _of(PYMODBUSTCP, "server", PLAIN | _OTHER | {"identify"})
TMODBUS_CLIENT: Final = _of(TMODBUS, "client", _ALL - {"custom", "identify", "iop_overrun_count", "modbus_plus"})
TMODBUS_SERVER: Final = _of(TMODBUS, "server", PLAIN | _MASK | _OTHER | {"exception_status"})
JSMODBUS_CLIENT: Final = Stack("jsmodbus", "5.0.0", "client", PLAIN - {"read_write"} | _OTHER | {"identify"})
MODBUS_SERIAL_CLIENT: Final = Stack(
    "modbus-serial", "8.0.25", "client", PLAIN | _MASK | _OTHER | {"server_id", "read_file", "identify_all", "custom"}
)
TSHARK: Final = Stack("Wireshark (tshark)", "Debian's", "decoder of recorded traffic", KINDS)

STACKS: Final = (
    MBPOLL,
    LIBMODBUS_CLIENT,
    LIBMODBUS_SERVER,
    PYMODBUS_CLIENT,
    PYMODBUS_SERVER,
    PYMODBUSTCP_CLIENT,
    PYMODBUSTCP_SERVER,
    TMODBUS_CLIENT,
    TMODBUS_SERVER,
    JSMODBUS_CLIENT,
    MODBUS_SERIAL_CLIENT,
    TSHARK,
)

_HEAD: Final = """\
# Interoperability

Foreign Modbus stacks that everbus is tested with, over real sockets: their clients against
`everbus serve`, their servers against both of our clients. One plan of requests says what each answer
must be, and every write is read back by a second client. Where a stack deviates from the
specification, its test names the deviation. `pytest -m interop` runs them all.

| stack | version | role | function codes |
|---|---|---|---|
"""


def _lines() -> Iterator[str]:
    for stack in STACKS:
        yield f"| {stack.name} | {stack.version} | {stack.role} | {stack.codes} |\n"


def page() -> str:
    """``docs/interop.md``."""
    return _HEAD + "".join(_lines())


if __name__ == "__main__":
    sys.stdout.write(page())
