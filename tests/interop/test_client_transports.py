"""UDP, and RTU and ASCII frames over TCP: our clients with a foreign server at the other end."""

from __future__ import annotations

from typing import Final

import pytest

from tests.interop.ours import CLIENTS, KINDS, Kind, answers, run
from tests.interop.plan import Step, exception, steps_for
from tests.interop.stacks import PYMODBUS_SERVER, TMODBUS_SERVER
from tests.interop.support import PEERS, python_with, started
from tests.interop.test_pymodbus import SERVER_DEVIATIONS
from tests.interop.test_tmodbus import NOT_SERVED, newer_with
from tools.environments import PYMODBUS, TMODBUS

pytestmark = [pytest.mark.interop, pytest.mark.timeout(300)]


LONG_QUERY: Final = ["query_data", "0123456789abcdef"]
"""Of RTU pymodbus sees the end of 08/00 with one word alone."""


def pymodbus_steps(scheme: str) -> list[Step]:
    """What pymodbus answers in this framing.

    In ASCII its frames end with LF, whatever it is told by 08/03; its answer to 08/04 is no frame of RTU.
    """
    left_out = {"rtu": {"listen_only"}, "asc": {"ascii_delimiter"}}.get(scheme[:3], set())
    kinds = PYMODBUS_SERVER.kinds - left_out
    steps = steps_for(kinds, refuses=kinds, far=False, but=SERVER_DEVIATIONS)
    return [step for step in steps if not (scheme.startswith("rtu") and step.call == LONG_QUERY)]


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("scheme", ["udp", "rtu+tcp", "ascii+tcp"])
def test_pymodbus(scheme: str, kind: Kind) -> None:
    steps = pymodbus_steps(scheme)
    with started(python_with(PYMODBUS), PEERS / "pymodbus_server.py", scheme) as (port, _):
        assert run(f"{scheme}://127.0.0.1:{port}", steps, kind=kind) == answers(steps)


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("scheme", ["udp", "rtu+tcp"])
def test_tmodbus(scheme: str, kind: Kind) -> None:
    kinds = KINDS if scheme == "udp" else TMODBUS_SERVER.kinds  # over RTU it hangs up on what it has no server for
    steps = steps_for(kinds, refuses=KINDS, far=False, but=[([kind], exception(1)) for kind in NOT_SERVED])
    with started(newer_with(TMODBUS), PEERS / "tmodbus_server.py", scheme) as (port, _):
        assert run(f"{scheme}://127.0.0.1:{port}", steps, kind=kind) == answers(steps)
