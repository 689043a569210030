"""everbus: Modbus for Python that stays up.

The names below are the public top level; each is loaded when it is first used, so that
``import everbus`` stays cheap. Addresses are 0-based PDU addresses everywhere.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from everbus.aio.client import AsyncClient
    from everbus.aio.pool import AsyncPool
    from everbus.aio.server import Server
    from everbus.aio.statistics import Drained, Forced
    from everbus.aio.thread import serve_in_thread
    from everbus.client.pool_core import PoolOptions
    from everbus.errors import (
        ClientClosedError,
        ConfigurationError,
        ConnectError,
        ConnectionLostError,
        ExceptionResponseError,
        FramingError,
        InvalidRequestError,
        MismatchError,
        ModbusError,
        ModbusTimeoutError,
        NetworkError,
        PduError,
        PeerError,
        PoolExhaustedError,
        ServerStateError,
        UsageError,
    )
    from everbus.limits import Limits
    from everbus.maps.notation import parse_point
    from everbus.maps.points import Point
    from everbus.service.bank import Bank
    from everbus.service.local import LocalDevice
    from everbus.service.units import Units
    from everbus.sync.client import Client
    from everbus.sync.pool import Pool

_HOMES = {
    "AsyncClient": "everbus.aio.client",
    "AsyncPool": "everbus.aio.pool",
    "Client": "everbus.sync.client",
    "Pool": "everbus.sync.pool",
    "PoolOptions": "everbus.client.pool_core",
    "PoolExhaustedError": "everbus.errors",
    "Server": "everbus.aio.server",
    "Drained": "everbus.aio.statistics",
    "Forced": "everbus.aio.statistics",
    "serve_in_thread": "everbus.aio.thread",
    "Limits": "everbus.limits",
    "Point": "everbus.maps.points",
    "parse_point": "everbus.maps.notation",
    "Bank": "everbus.service.bank",
    "LocalDevice": "everbus.service.local",
    "Units": "everbus.service.units",
    "ClientClosedError": "everbus.errors",
    "ConfigurationError": "everbus.errors",
    "ConnectError": "everbus.errors",
    "ConnectionLostError": "everbus.errors",
    "ExceptionResponseError": "everbus.errors",
    "FramingError": "everbus.errors",
    "InvalidRequestError": "everbus.errors",
    "MismatchError": "everbus.errors",
    "ModbusError": "everbus.errors",
    "ModbusTimeoutError": "everbus.errors",
    "NetworkError": "everbus.errors",
    "PduError": "everbus.errors",
    "PeerError": "everbus.errors",
    "ServerStateError": "everbus.errors",
    "UsageError": "everbus.errors",
}

__all__ = [
    "AsyncClient",
    "AsyncPool",
    "Bank",
    "Client",
    "ClientClosedError",
    "ConfigurationError",
    "ConnectError",
    "ConnectionLostError",
    "Drained",
    "ExceptionResponseError",
    "Forced",
    "FramingError",
    "InvalidRequestError",
    "Limits",
    "LocalDevice",
    "MismatchError",
    "ModbusError",
    "ModbusTimeoutError",
    "NetworkError",
    "PduError",
    "PeerError",
    "Point",
    "Pool",
    "PoolExhaustedError",
    "PoolOptions",
    "Server",
    "ServerStateError",
    "Units",
    "UsageError",
    "__version__",
    "parse_point",
    "serve_in_thread",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'everbus' has no attribute {name!r}")
    value: object = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
