"""What a run does to a server, over and over. A new scenario is one class and its line in ``SCENARIOS``."""

from __future__ import annotations

import errno
import socket
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Protocol

from everbus.errors import ConnectError, ExceptionResponseError, ModbusError
from everbus.protocol.client_session import ClientSession
from everbus.protocol.pdu.registers import ReadHoldingRegistersRequest

if TYPE_CHECKING:
    from everbus.client.endpoint import Endpoint

__all__ = [
    "SCENARIOS",
    "Churn",
    "CycleFailedError",
    "FailureKind",
    "Scenario",
    "Target",
    "resolve",
]

_RECEIVE_BYTES: Final = 512
_SHORTAGES: Final = frozenset({errno.EADDRNOTAVAIL, errno.EMFILE, errno.ENFILE, errno.ENOBUFS})
_SHORTAGE_S: Final = 90.0
_SHORTAGE_RETRY_S: Final = 0.1


class FailureKind(StrEnum):
    """Why a cycle failed."""

    REFUSED = "refused"
    TIMEOUT = "timeout"
    RESET = "reset"
    BAD_ANSWER = "bad_answer"
    OTHER = "other"


class CycleFailedError(Exception):
    """A cycle did not go as it must.

    Args:
        kind: why.
        message: words for people.
        connected: the connection had been made.
    """

    def __init__(self, kind: FailureKind, message: str, connected: bool = True) -> None:
        self.kind = kind
        self.connected = connected
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Target:
    """A server, resolved: where each connection of a run goes.

    Args:
        family: AF_INET, AF_INET6 or AF_UNIX.
        address: what ``socket.connect`` takes.
        unit: the unit that is asked, 0..255.
        timeout_s: for a connection to be made, and for an answer to be whole.
    """

    family: int
    address: Any
    unit: int = 1
    timeout_s: float = 3.0

    def connect(self) -> socket.socket:
        """A new connection.

        Where this machine has no port or descriptor left for one, that is not the server's fault:
        it waits, for the ports of closed connections come back after a minute.

        Raises:
            CycleFailedError: the server did not take it.
            ConnectError: this machine could not make one for 90 s.
        """
        give_up = time.monotonic() + _SHORTAGE_S
        while True:
            try:
                return self._connect_once()
            except OSError as error:
                if error.errno not in _SHORTAGES:
                    message = f"cannot connect: {_words(error)}"
                    raise CycleFailedError(_kind(error), message, connected=False) from error
                if time.monotonic() > give_up:
                    raise ConnectError(f"this machine can make no more connections: {_words(error)}") from error
            time.sleep(_SHORTAGE_RETRY_S)

    def _connect_once(self) -> socket.socket:
        link = socket.socket(self.family, socket.SOCK_STREAM)
        try:
            link.settimeout(self.timeout_s)
            link.connect(self.address)
        except OSError:
            link.close()
            raise
        return link


def resolve(endpoint: Endpoint, unit: int, timeout_s: float) -> list[Target]:
    """Every address of an endpoint, in the system's order.

    Raises:
        ConnectError: its name is not known.
    """
    if endpoint.scheme == "unix":
        return [Target(socket.AF_UNIX, endpoint.path, unit, timeout_s)]
    try:
        found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        message = f"cannot find {endpoint.host!r}: {_words(error)}; check the name, or give an address"
        raise ConnectError(message) from error
    return [Target(family, address, unit, timeout_s) for family, _, _, _, address in found]


class Scenario(Protocol):
    """One kind of abuse."""

    @property
    def name(self) -> str:
        """As the command line has it."""
        ...

    @property
    def summary(self) -> str:
        """What one cycle does, in a few words."""
        ...

    def cycle(self, target: Target, number: int) -> None:
        """Do it once; it is called by several threads at a time.

        Args:
            target: the server.
            number: of this cycle, from 1.

        Raises:
            CycleFailedError: the server did not do its part.
            ConnectError: this machine could not do its own.
        """
        ...


class Churn:
    """Connect, read one holding register, disconnect: the loop that has killed servers.

    Address 0, function code 03. A Modbus exception is an answer too.
    """

    name = "churn"
    summary = "connect, read one holding register, disconnect"

    def cycle(self, target: Target, number: int) -> None:
        """Do it once."""
        with target.connect() as link:
            try:
                _exchange(link, target, number)
            except OSError as error:
                raise CycleFailedError(_kind(error), f"no answer: {_words(error)}") from error


def _exchange(link: socket.socket, target: Target, number: int) -> None:
    """One request and its answer, which is checked wholly (spec.md 4.4) and must be all that comes."""
    session = ClientSession(first_transaction=number & 0xFFFF)
    _, request = session.submit(target.unit, ReadHoldingRegistersRequest(0, 1))
    deadline = time.monotonic() + target.timeout_s
    link.sendall(request)
    while True:
        link.settimeout(max(deadline - time.monotonic(), 0.001))
        data = link.recv(_RECEIVE_BYTES)
        if not data:
            raise CycleFailedError(FailureKind.RESET, "the connection was closed before the answer")
        completions = session.receive(data)
        error: ModbusError | None = completions[0].error if completions else session.fault
        if error is not None and not isinstance(error, ExceptionResponseError):
            raise CycleFailedError(FailureKind.BAD_ANSWER, str(error))
        if session.statistics().unknown:
            raise CycleFailedError(FailureKind.BAD_ANSWER, "an answer to a request that was not made")
        if completions:
            return


def _kind(error: OSError) -> FailureKind:
    if isinstance(error, (ConnectionRefusedError, FileNotFoundError)):
        return FailureKind.REFUSED
    if isinstance(error, TimeoutError):
        return FailureKind.TIMEOUT
    if isinstance(error, ConnectionError):
        return FailureKind.RESET
    return FailureKind.OTHER


def _words(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


SCENARIOS: Final[dict[str, Scenario]] = {scenario.name: scenario for scenario in (Churn(),)}
"""Every scenario by its name."""
