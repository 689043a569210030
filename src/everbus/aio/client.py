"""The client: one peer, one connection, any number of units.

``sync/client.py`` is made from this file by ``tools/make_sync.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any, Self, TypeVar

from everbus.aio.driver import Driver
from everbus.aio.unit import AsyncUnit
from everbus.client.endpoint import Endpoint, as_endpoint
from everbus.client.exchange import Exchange
from everbus.client.health import ClientStatistics, Health
from everbus.client.options import ClientOptions
from everbus.client_log import ClientLog
from everbus.maps.planner import HoleMap
from everbus.observe import Observer
from everbus.protocol.client_session import Matching
from everbus.protocol.pdu.base import Request, Response
from everbus.protocol.pdu.table import PUBLIC, FunctionTable
from everbus.protocol.values import check_unit

__all__ = ["AsyncClient"]

R = TypeVar("R", bound=Response)


class AsyncClient:
    """A Modbus client over one connection, made when it is needed and replaced when it must be.

    Args:
        endpoint: whom to ask: a URL such as ``tcp://192.0.2.7:502`` or ``unix:///run/modbus.sock``.
        timeout_s: deadline of a whole call: connecting, waiting, retries included. Each attempt gets
            ``timeout_s / (retries + 1)``.
        connect_timeout_s: for a connection to be made; never past the call's own deadline.
        retries: further attempts for what may be repeated: reads.
        max_in_flight: requests open at once. More than 1 only where the device answers pipelined
            requests.
        spacing_s: least time from the end of one exchange to the next request.
        connect_delay_s: least time from a new connection to its first request.
        matching: ``strict``; or ``lenient`` for devices that get transaction ids or units wrong.
        retry_writes: writes are repeated too; a device may then carry one out twice.
        retry_busy_s: repeat after this pause what was answered with exception 06, busy.
        source: local address to connect from.
        table: the function codes that the client knows; extend ``PUBLIC`` for custom ones.
        observer: told of connections that are made, not made, lost or given up; by default they are
            logged as ``everbus.client``.
        persistent: connect again by itself whenever the connection has ended, from ``connect`` on.

    Raises:
        ConfigurationError: the endpoint is not one, or an option cannot work.

    Use it as ``async with AsyncClient(url) as client: await client.unit(1).read_coils(0, 8)``, or
    without ``with`` and call ``close``. It is used in one event loop at a time.
    """

    def __init__(  # noqa: PLR0913  keywords, all but one
        self,
        endpoint: str | Endpoint,
        *,
        timeout_s: float = 3.0,
        connect_timeout_s: float = 3.0,
        retries: int = 1,
        max_in_flight: int = 1,
        spacing_s: float = 0.0,
        connect_delay_s: float = 0.0,
        matching: Matching = "strict",
        retry_writes: bool = False,
        retry_busy_s: float | None = None,
        source: str = "",
        table: FunctionTable = PUBLIC,
        observer: Observer | None = None,
        # async only
        persistent: bool = False,
        # end of async only
    ) -> None:
        self.endpoint: Endpoint = as_endpoint(endpoint)
        """The peer."""
        self.options: ClientOptions = ClientOptions(
            timeout_s=timeout_s,
            connect_timeout_s=connect_timeout_s,
            retries=retries,
            max_in_flight=max_in_flight,
            spacing_s=spacing_s,
            connect_delay_s=connect_delay_s,
            matching=matching,
            retry_writes=retry_writes,
            retry_busy_s=retry_busy_s,
            source=source,
            table=table,
        )
        """Its bounds."""
        self.holes: HoleMap = HoleMap()
        """What reads of points do not pass over: learned from refusals, or declared by you."""
        self._health = Health(str(self.endpoint), observer or ClientLog())
        self._exchange = Exchange(self.endpoint, self.options, monotonic, self._health)
        self._driver = Driver(self.endpoint, self.options, self._health, self._exchange)
        # async only
        self._driver.persistent = persistent
        # end of async only

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.endpoint} {'connected' if self.connected else 'not connected'}>"

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def connected(self) -> bool:
        """A connection is up, as far as anybody can know."""
        return self._driver.connected

    @property
    def clean(self) -> bool:
        """Everything asked was answered, and nothing else is under way: anybody may go on from here.

        A serial line always may: its client remembers who still owes an answer, and nobody else does.
        """
        session = self._driver.session
        return self.endpoint.serial is not None or (session is not None and session.clean)

    def check(self) -> bool:
        """Whether it can be used on, as far as the system knows by now; nothing is sent. A serial line always can."""
        return self.endpoint.serial is not None or self._driver.check()

    def unit(self, number: int) -> AsyncUnit:
        """The unit with this number, 0..255 (spec.md 4.3). Devices that are no gateways mostly answer any.

        Raises:
            UsageError: the number is outside 0..255.
        """
        return AsyncUnit(self, check_unit(number))

    def call(self, request: Request[R], unit: int = 1) -> Coroutine[Any, Any, R]:
        """Make any request, custom ones included; return its response.

        Raises:
            InvalidRequestError, UsageError: it cannot be sent as it is; nothing was sent.
            ExceptionResponseError: the device answered with an exception.
            MismatchError, PduError: an answer that is not one to this request, or is not legal.
            ConnectError, ConnectionLostError: no connection, or it ended before the answer came.
            ModbusTimeoutError: no answer in time.
            ServerStateError: the client is closed.
        """
        return self._driver.call(unit, request)  # type: ignore[no-any-return,unused-ignore]

    async def broadcast(self, request: Request[Any]) -> None:
        """Send a write to every unit of the serial line behind a gateway (unit 0); nobody answers.

        Raises:
            InvalidRequestError: it cannot be sent as it is, or it reads; nothing was sent.
            ConnectError, ConnectionLostError: no connection.
            ModbusTimeoutError: no room on the connection in time.
        """
        await self._driver.run(self._exchange.broadcast(request))

    async def connect(self) -> None:
        """Connect now. Idempotent, in every state; a closed client is open again. A persistent one goes on trying.

        Raises:
            ConnectError: no connection within ``connect_timeout_s``.
        """
        await self._driver.connect()

    async def disconnect(self) -> None:
        """End the connection; the next request makes a new one. Idempotent."""
        await self._driver.disconnect()

    async def close(self) -> None:
        """End everything; what is under way fails with ``ConnectionLostError``. Idempotent, in every state."""
        await self._driver.close()

    # async only
    async def wait_connected(self, timeout_s: float | None = None) -> None:
        """Wait until a connection is up, with ``persistent`` mostly.

        Raises:
            ModbusTimeoutError: not within the time.
        """
        await self._driver.wait_connected(timeout_s)

    def on_connection(self, callback: Callable[[bool], object]) -> Callable[[], None]:
        """Call back with True when a connection is up, with False when it has ended; return a way to stop that."""
        return self._driver.listen(callback)

    def on_connection_lost(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Call back when the connection has ended; return a way to stop that."""
        return self._driver.listen(lambda up: None if up else callback())

    # end of async only
    def space_unit(self, unit: int, spacing_s: float) -> None:
        """Leave one unit alone for so long after each exchange with it; 0 ends that."""
        self._driver.pacing.space_unit(check_unit(unit), spacing_s)

    def require_timeout(self, seconds: float | None) -> None:
        """Give every call at least so long; None takes it back."""
        self._exchange.require_timeout(seconds or 0.0)

    def require_connect_delay(self, seconds: float | None) -> None:
        """Leave a new connection alone for at least so long; None changes nothing."""
        self._driver.pacing.delay_connect(seconds or 0.0)

    def statistics(self) -> ClientStatistics:
        """A snapshot of what it has done."""
        session = self._driver.session
        return self._health.statistics(session.statistics() if session is not None else None)
