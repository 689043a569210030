"""Every error that everbus raises on purpose, in one tree.

::

    ModbusError
    ├── UsageError (ValueError)          your mistake: nothing was sent, nothing was changed
    │   ├── InvalidRequestError          a request that the specification does not allow
    │   ├── ConfigurationError           a limit, an endpoint or an option that cannot work
    │   └── ServerStateError             start, stop or use in a state where it makes no sense
    ├── PeerError                        the peer's mistake, or the peer's word
    │   ├── ExceptionResponseError       it answered with a Modbus exception (the link works)
    │   ├── PduError                     a PDU that breaks the rules; knows its exception code
    │   ├── FramingError                 a stream of bytes that is not Modbus
    │   └── MismatchError                an answer that does not belong to the request
    ├── NetworkError (ConnectionError)   nobody's mistake
    │   ├── ConnectError                 no connection could be made, no address bound
    │   │   └── PoolExhaustedError       a pool had none to lend
    │   └── ConnectionLostError          it ended while something was under way
    │       └── ClientClosedError        by closing the client
    └── ModbusTimeoutError (TimeoutError)

Foreign exceptions are translated at the border with their cause kept (``__cause__``).
Failures always raise; no function of everbus returns an error object.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from everbus.protocol.codes import ExceptionCode

__all__ = [
    "ClientClosedError",
    "ConfigurationError",
    "ConnectError",
    "ConnectionLostError",
    "ExceptionResponseError",
    "FramingError",
    "InvalidRequestError",
    "MismatchError",
    "ModbusError",
    "ModbusTimeoutError",
    "NetworkError",
    "PduError",
    "PeerError",
    "PoolExhaustedError",
    "ServerStateError",
    "UsageError",
]


class ModbusError(Exception):
    """Base of every error that everbus raises on purpose."""


class UsageError(ModbusError, ValueError):
    """Your mistake: the call cannot work as it was made."""


class InvalidRequestError(UsageError):
    """A request that the specification does not allow; it was not sent."""


class ConfigurationError(UsageError):
    """A limit, an endpoint or an option that cannot work."""


class ServerStateError(UsageError):
    """An operation that makes no sense in the present state."""


class PeerError(ModbusError):
    """The peer broke a rule, or said no."""


class ExceptionResponseError(PeerError):
    """A Modbus exception.

    A client raises it for an exception response; a handler raises it to answer one.

    Args:
        code: the exception code, 0..255; vendor codes are kept as they are.
        function_code: the function code of the request, without the 0x80 bit; 0 where unknown.
        message: words for people; by default the code's name.
    """

    def __init__(self, code: ExceptionCode | int, function_code: int = 0, message: str = "") -> None:
        from everbus.protocol.codes import exception_name  # noqa: PLC0415  the tree stays importable alone

        self.code: int = int(code)
        self.function_code = function_code
        super().__init__(message or f"exception {self.code:02X}: {exception_name(self.code)}")

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.code, self.function_code, str(self))


class PduError(PeerError):
    """A PDU that breaks the rules of its function code.

    Args:
        exception_code: what a server answers to such a request (spec.md 1.4).
        message: what is wrong, with the offending numbers.
    """

    def __init__(self, exception_code: ExceptionCode, message: str) -> None:
        self.exception_code = exception_code
        super().__init__(message)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.exception_code, str(self))


class FramingError(PeerError):
    """A stream that is not what it should be.

    Args:
        reason: a short fixed label, for counters (``protocol_id``, ``length`` ...).
        message: words for people, with the offending numbers.
    """

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.reason, str(self))


class MismatchError(PeerError):
    """An answer that does not belong to the request it claims to answer."""


class NetworkError(ModbusError, ConnectionError):
    """The network's fault, or nobody's."""


class ConnectError(NetworkError):
    """No connection could be made, or no address could be bound."""


class PoolExhaustedError(ConnectError):
    """A pool had no connection to lend: all were in use until the deadline, or too many wait already."""


class ConnectionLostError(NetworkError):
    """The connection ended while something was under way."""


class ClientClosedError(ConnectionLostError):
    """The client was closed while something was under way; it is not repeated."""


class ModbusTimeoutError(ModbusError, TimeoutError):
    """Something took longer than its limit."""
