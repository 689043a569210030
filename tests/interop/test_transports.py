"""UDP, and RTU and ASCII frames over TCP: a foreign client with ``everbus serve`` at the other end."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Final

import pytest

from tests.interop.ours import answers, run
from tests.interop.plan import READS, effects, steps_for
from tests.interop.stacks import PYMODBUS_CLIENT
from tests.interop.support import PEERS, Device, everbus_serve, peer_answers, python_with
from tools.environments import PYMODBUS

pytestmark = [pytest.mark.interop, pytest.mark.timeout(300)]

LEFT_OUT: Final = {
    "udp": set[str](),
    "rtu+tcp": {"other_unit", "fifo", "query_data"},
    "ascii+tcp": {"other_unit", "ascii_delimiter"},
}
"""Without ids a unit that is not here is silent. Of RTU pymodbus does not see the end of 18 and 08/00; in ASCII it ends
its frames with LF, whatever it tells the other end."""


def free_port(scheme: str) -> int:
    kind = socket.SOCK_DGRAM if scheme == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def ports() -> dict[str, int]:
    return {scheme: free_port(scheme) for scheme in LEFT_OUT}


@pytest.fixture(scope="module")
def device(ports: dict[str, int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    """``everbus serve`` on all of them, and on TCP to look at what they have done."""
    urls = [f"{scheme}://127.0.0.1:{port}" for scheme, port in ports.items()]
    with everbus_serve(tmp_path_factory.mktemp("served"), *urls) as started:
        yield started


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("scheme", LEFT_OUT)
def test_pymodbus(ports: dict[str, int], device: Device, scheme: str, mode: str) -> None:
    unit = device.fresh_unit()
    kinds = PYMODBUS_CLIENT.kinds - LEFT_OUT[scheme]
    steps = steps_for(kinds, refuses=READS)
    command = (python_with(PYMODBUS), PEERS / "pymodbus_client.py", mode)
    assert peer_answers(command, f"{scheme}:{ports[scheme]}", unit, steps) == answers(steps)
    left = effects(kinds)
    assert run(device.port, left, unit) == answers(left)
