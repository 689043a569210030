"""What our clients and ``everbus serve`` say over UDP, and in RTU frames over TCP, as Wireshark reads it.

It has no dissector for ASCII frames.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import pytest

from everbus.protocol.framing.base import Frame, Framer
from everbus.protocol.framing.mbap import MbapFramer
from everbus.protocol.framing.rtu import RtuFramer
from tests.interop.capture import RTU, UDP, Dissected, Dissector, capturing, dissect, payloads, wait_for
from tests.interop.ours import CLIENTS, KINDS, Kind, request_of, run
from tests.interop.plan import REFUSED, Step, steps_for
from tests.interop.support import everbus_serve, needs
from tests.interop.test_transports import free_port
from tests.interop.test_tshark import values

pytestmark = pytest.mark.interop

LAST: Final = Step("query_data", ("e55a",), "e55a")
LEFT_OUT: Final = {
    UDP: set[str](),
    RTU: {"other_unit", "query_data", "exception_status", "event_counter", "event_log", "server_id"},
}
"""Without ids a unit that is not here is silent, and 08/00 of several words ends with silence alone. Wireshark 4.0
reads no RTU frame of four bytes."""


@pytest.fixture(autouse=True)
def installed() -> None:
    needs("tshark", "dumpcap", package="tshark")


def heads(frame: Dissected, dissector: Dissector) -> list[int]:
    """Transaction where there is one, unit and function code, as Wireshark read them."""
    names = ["mbrtu.unit_id"] if dissector is RTU else ["mbtcp.trans_id", "mbtcp.unit_id"]
    return [number for name in (*names, "modbus.func_code") for number in frame.numbers(name)]


def framed(dissector: Dissector, packets: Iterable[tuple[bool, bytes]]) -> tuple[list[Frame], list[Frame]]:
    """Requests and responses, as we read them."""
    framers: tuple[Framer, Framer] = (RtuFramer("request"), RtuFramer("response"))
    if dissector is UDP:
        framers = (MbapFramer(), MbapFramer())
    found: tuple[list[Frame], list[Frame]] = ([], [])
    for response, data in packets:
        found[response].extend(framers[response].feed(data))
    return found


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize(("scheme", "dissector"), [("udp", UDP), ("rtu+tcp", RTU)])
def test_a_recorded_conversation_is_read_as_it_was_meant(
    scheme: str, dissector: Dissector, kind: Kind, tmp_path: Path
) -> None:
    port, file = free_port(scheme), tmp_path / "conversation.pcap"
    url = f"{scheme}://127.0.0.1:{port}"
    steps = [*steps_for(KINDS - LEFT_OUT[dissector], refuses=KINDS), LAST]
    with everbus_serve(tmp_path, url), capturing(port, file, dissector.layer):
        run(url, steps, kind=kind)
        wait_for(request_of(LAST).encode(), file, times=2)
    found = dissect(file, port, dissector)
    assert [frame for frame in found if frame.malformed or frame.doubts] == []
    requests, responses = framed(dissector, payloads(file, port, dissector))
    assert [frame.pdu for frame in requests] == [request_of(step).encode() for step in steps if step.answer != REFUSED]
    for frames, response in ((requests, False), (responses, True)):
        seen = [frame for frame in found if frame.response is response]
        assert [heads(frame, dissector) for frame in seen] == [
            ([frame.transaction] if dissector is UDP else []) + [frame.unit, frame.pdu[0] & 0x7F] for frame in frames
        ]
    shown = [frame for frame in found if frame.response]
    pairs = [values(*three) for three in zip(requests, responses, shown, strict=True)]
    assert [ours for ours, _ in pairs] == [theirs for _, theirs in pairs]
