"""Wireshark's dissector, a decoder that nobody here wrote, reads what everbus sends as everbus means it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Final

import pytest

from everbus.protocol.framing.base import Frame
from everbus.protocol.framing.mbap import MbapFramer
from everbus.protocol.pdu.encapsulated import ReadDeviceIdentificationResponse
from everbus.protocol.pdu.files import ReadFileRecordResponse
from everbus.protocol.pdu.table import PUBLIC
from everbus.protocol.values import unpack_bits, unpack_registers
from tests.interop.capture import Dissected, capturing, dissect, wait_for
from tests.interop.ours import request_of
from tests.interop.plan import PLAN
from tests.interop.stacks import TSHARK
from tests.interop.support import Device, needs

pytestmark = pytest.mark.interop

NOBODY: Final = 240
COALESCED: Final = 8
PIECES: Final = (8, 9, 11)
"""Where a frame is cut. Wireshark 4.0 joins no frame whose first segment is shorter than 8 bytes."""
LAST: Final = b"\x08\x00\x00the end."
PLAN_REQUESTS: Final = [request_of(step).encode() for step in PLAN if step.kind in TSHARK.kinds]
UNKNOWN: Final = [bytes.fromhex("410102"), bytes.fromhex("2b0d001f1005000000"), bytes.fromhex("0800130000")]
"""Function codes and sub-functions that get exception 01."""


@pytest.fixture(autouse=True)
def installed() -> None:
    needs("tshark", "dumpcap", package="tshark")


class Recorded:
    """A connection that remembers the frames of both directions."""

    def __init__(self, port: int, unit: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._framer = MbapFramer()
        self._unit = unit
        self.requests: list[Frame] = []
        self.responses: list[Frame] = []

    def close(self) -> None:
        self._socket.close()

    def frame(self, pdu: bytes, unit: int | None = None) -> bytes:
        """A request with a transaction id of its own."""
        request = Frame(self._unit if unit is None else unit, pdu, len(self.requests) + 1)
        self.requests.append(request)
        return self._framer.encode(request.unit, request.pdu, request.transaction)

    def send(self, *pieces: bytes) -> None:
        """Send, each piece as a segment, and wait until every request has its answer."""
        for piece in pieces:
            self._socket.sendall(piece)
        while len(self.responses) < len(self.requests):
            data = self._socket.recv(4096)
            assert data, "the server closed the connection"
            self.responses += self._framer.feed(data)


def talk(connection: Recorded) -> None:
    """Every request of the plan: whole, in pieces, and several at once."""
    requests = [*PLAN_REQUESTS, *UNKNOWN]
    for pdu in requests:
        connection.send(connection.frame(pdu))
    for pdu in requests:
        frame = connection.frame(pdu)
        cuts = [0, *(cut for cut in PIECES if cut < len(frame)), len(frame)]
        connection.send(*(frame[start:end] for start, end in pairwise(cuts)))
    for start in range(0, len(requests), COALESCED):
        connection.send(b"".join(connection.frame(pdu) for pdu in requests[start : start + COALESCED]))
    connection.send(connection.frame(PLAN_REQUESTS[0], NOBODY))
    connection.send(connection.frame(LAST))


def after(start: int, size: int | None = None) -> Callable[[bytes], list[int]]:
    """The registers of a PDU from a byte on."""
    return lambda pdu: unpack_registers(pdu[start : None if size is None else start + size])


def tail(start: int) -> Callable[[bytes], list[int]]:
    return lambda pdu: list(pdu[start:])


def objects(pdu: bytes) -> list[int]:
    """Everything in a response to 2B/0E but the values of its objects."""
    response = PUBLIC.decode_response(pdu)
    assert isinstance(response, ReadDeviceIdentificationResponse)
    found = response.objects
    return [*pdu[2:7], *(number for number, _ in found), *(len(value) for _, value in found)]


READ_BY: Final[dict[int, tuple[Callable[[bytes], list[int]], list[str]]]] = {
    0x03: (after(2), ["regval_uint16"]),
    0x04: (after(2), ["regval_uint16"]),
    0x05: (lambda pdu: [*unpack_registers(pdu[1:3]), *pdu[3:]], ["reference_num", "data"]),
    0x06: (lambda pdu: [*unpack_registers(pdu[1:3]), *pdu[3:]], ["reference_num", "data"]),
    0x07: (tail(1), ["data"]),
    0x08: (after(1, 2), ["diagnostic_code"]),
    0x0B: (after(1), ["ev_status", "ev_count"]),
    0x0C: (lambda pdu: [*unpack_registers(pdu[2:8]), *pdu[8:]], ["ev_status", "ev_count", "ev_msg_count", "event"]),
    0x0F: (after(1), ["reference_num", "bit_cnt"]),
    0x10: (after(1), ["reference_num", "word_cnt"]),
    0x11: (tail(1), ["data"]),
    # Records are left out: Wireshark 4.0 takes those of one group and all that follows for its data.
    0x15: (lambda pdu: [pdu[1]], ["byte_cnt"]),
    0x16: (after(1), ["reference_num", "and_mask", "or_mask"]),
    0x17: (tail(2), ["data"]),
    0x18: (lambda pdu: [*unpack_registers(pdu[1:5]), *pdu[5:]], ["byte_cnt_16", "word_cnt", "data"]),
    0x2B: (
        objects,
        [
            "read_device_id",
            "conformity_level",
            "more_follows",
            "next_object_id",
            "num_objects",
            "object_id",
            "objects_len",
        ],
    ),
}
"""Responses by function code: what we read in their PDU, and the fields where Wireshark shows it."""


def values(request: Frame, response: Frame, dissected: Dissected) -> tuple[list[int], list[int]]:
    """What a response carries, as we read it and as Wireshark does."""
    pdu = response.pdu
    if pdu[0] & 0x80:
        return [pdu[1]], dissected.numbers("modbus.exception_code")
    if pdu[0] in (0x01, 0x02):
        address, quantity = unpack_registers(request.pdu[1:])
        shown = dissected.numbers("modbus.bitval")
        if address + quantity > 0xFFFF:  # where Wireshark 4.0 shows the padding too
            shown = shown[:quantity]
        return [int(bit) for bit in unpack_bits(pdu[2:], quantity)], shown
    if pdu[0] == 0x14:
        counts = dissected.numbers("modbus.byte_cnt")
        return [pdu[1], *(len(group) + 1 for group in groups(pdu))], counts
    read, names = READ_BY[pdu[0]]
    return read(pdu), [number for name in names for number in dissected.numbers(f"modbus.{name}")]


def groups(pdu: bytes) -> list[bytes]:
    response = PUBLIC.decode_response(pdu)
    assert isinstance(response, ReadFileRecordResponse)
    return response.groups


def test_a_recorded_conversation_is_read_as_it_was_meant(device: Device, tmp_path: Path) -> None:
    file = tmp_path / "conversation.pcap"
    connection = Recorded(device.port, device.fresh_unit())
    try:
        with capturing(device.port, file):
            talk(connection)
            wait_for(LAST, file, times=2)
    finally:
        connection.close()
    found = dissect(file, device.port)
    assert [frame for frame in found if frame.malformed] == []
    for frames, response in ((connection.requests, False), (connection.responses, True)):
        seen = [frame for frame in found if frame.response is response]
        assert [heads(frame) for frame in seen] == [
            (frame.transaction, 0, len(frame.pdu) + 1, frame.unit, frame.pdu[0] & 0x7F) for frame in frames
        ]
    answers = [frame for frame in found if frame.response]
    pairs = [values(*three) for three in zip(connection.requests, connection.responses, answers, strict=True)]
    assert [ours for ours, _ in pairs] == [theirs for _, theirs in pairs]
    assert {frame.pdu[0] for frame in connection.responses if frame.pdu[0] < 0x80} == {0x01, 0x02, 0x14, *READ_BY}
    assert {frame.pdu[1] for frame in connection.responses if frame.pdu[0] & 0x80} == {1, 2, 3, 0x0B}


def heads(frame: Dissected) -> tuple[int, ...]:
    """Transaction, protocol, length, unit and function code, as Wireshark read them."""
    names = ("mbtcp.trans_id", "mbtcp.prot_id", "mbtcp.len", "mbtcp.unit_id", "modbus.func_code")
    return tuple(number for name in names for number in frame.numbers(name))


def test_a_malformed_frame_would_be_seen(tmp_path: Path) -> None:
    """An identification object that is longer than its frame."""
    file = tmp_path / "malformed.pcap"
    request, response = (
        bytes.fromhex("00010000000501 2b0e0100"),
        bytes.fromhex("00010000000c012b0e01010000010009616263"),
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with capturing(port, file), socket.create_connection(("127.0.0.1", port)) as client:
            server, _ = listener.accept()
            with server:
                client.sendall(request)
                assert server.recv(100) == request
                server.sendall(response)
                assert client.recv(100) == response
                wait_for(response, file)
    assert [frame.malformed for frame in dissect(file, port)] == [False, True]
