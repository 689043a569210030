"""A conversation without a socket: session, pipeline and device, each answer checked as a client would."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from everbus.errors import ExceptionResponseError, FramingError, PduError
from everbus.protocol.client_session import ClientSession
from everbus.protocol.codes import EXCEPTION_BIT
from everbus.protocol.framing.base import Frame
from everbus.protocol.framing.mbap import HEADER_BYTES, MAX_ADU_BYTES, MbapFramer
from everbus.protocol.pdu.base import ExceptionResponse
from everbus.protocol.pdu.table import PUBLIC, AnyRequest
from everbus.protocol.server_session import ServerSession
from everbus.service.authorize import ALLOW_ALL, Policy
from everbus.service.bank import Bank
from everbus.service.context import ConnectionInfo, RequestContext
from everbus.service.files import FifoQueues, FileStore
from everbus.service.local import LocalDevice
from everbus.service.pipeline import Pipeline
from everbus.service.units import Units
from everbus.testing import RecordingObserver

__all__ = ["AllowAllSlowly", "Conversation", "Served", "check_answer", "device"]


def device() -> LocalDevice:
    """One with holes, a short file and filled queues, so that every exception can happen."""
    queues = FifoQueues()
    for address, number in ((0x04DE, 2), (0x75, 31), (0, 32)):
        for value in range(number):
            queues.push(address, value)
    bank = Bank(holding_registers=[(0, 1000), (2000, 63536)], coils=[(0, 100), (200, 5000)])
    return LocalDevice(bank, files=FileStore({1: 100, 4: 10000}, max_bytes=100_000), queues=queues)


class AllowAllSlowly:
    """Allows everything, but wants to see each request: nothing takes the short way."""

    unconditional = False

    def allows(self, request: AnyRequest, context: RequestContext) -> bool:
        return True


@dataclass
class Served:
    """What a server made of a stream."""

    frames: list[Frame] = field(default_factory=list)
    answers: list[bytes] = field(default_factory=list)
    fault: FramingError | None = None


class Conversation:
    """Session, pipeline and device of one connection; checks each step.

    Args:
        policy: an unconditional one opens the short way.
        units: who the device is; None: everybody.
    """

    def __init__(self, policy: Policy = ALLOW_ALL, units: Collection[int] | None = None) -> None:
        self.units = units
        self.observer = RecordingObserver()
        self.framer = MbapFramer()
        self.session = ServerSession(self.framer)
        served = device()
        known = Units(served if units is None else dict.fromkeys(units, served))
        self.pipeline = Pipeline(known, policy, observer=self.observer)
        self.info = ConnectionInfo(1, "192.0.2.1:1", "192.0.2.1", "tcp://192.0.2.2:502")

    def renew(self) -> None:
        """The next connection to the same device."""
        self.framer = MbapFramer()
        self.session = ServerSession(self.framer)

    def serve(self, pieces: Iterable[bytes]) -> Served:
        served = Served()
        for piece in pieces:
            for frame in self.session.receive(memoryview(piece)):
                answer = self.pipeline.answer(frame, self.info)
                assert isinstance(answer, bytes), frame
                reply = self.session.reply(frame.unit, answer, frame.transaction)
                check_answer(frame, answer, known=self.units is None or frame.unit in self.units)
                _check_accepted(frame, reply)
                served.frames.append(frame)
                served.answers.append(reply)
            assert self.framer.pending < MAX_ADU_BYTES
        served.fault = self.session.fault
        assert self.observer.events == []
        return served


def check_answer(frame: Frame, answer: bytes, *, known: bool = True) -> None:
    """A legal PDU that answers this request; 0B only if nobody is there."""
    assert 2 <= len(answer) <= 253, frame
    assert answer[0] & 0x7F == frame.pdu[0] & 0x7F, frame
    response = PUBLIC.decode_response(answer)
    assert response.encode() == answer, frame
    if isinstance(response, ExceptionResponse):
        assert len(answer) == 2, frame
        assert response.exception_code in (1, 2, 3, 4 if known else 0x0B), frame
    else:
        request = PUBLIC.decode_request(frame.pdu)
        assert request.mismatch(response) is None, frame


def _check_accepted(frame: Frame, reply: bytes) -> None:
    """A client that had sent this request takes the reply for its answer; the illegal gets its exception."""
    request = _decoded(frame.pdu)
    if isinstance(request, PduError):
        assert reply[HEADER_BYTES:] == bytes((frame.pdu[0] | EXCEPTION_BIT, request.exception_code)), frame
        return
    client = ClientSession(first_transaction=frame.transaction)
    wire = MbapFramer().encode(frame.unit, frame.pdu, frame.transaction)
    assert client.submit(frame.unit, request) == (frame.transaction, wire)
    (completion,) = client.receive(reply)
    assert completion.error is None or isinstance(completion.error, ExceptionResponseError), completion
    assert client.statistics().completed == 1
    assert not client.partial


def _decoded(pdu: bytes) -> AnyRequest | PduError:
    try:
        return PUBLIC.decode_request(pdu)
    except PduError as error:
        return error
