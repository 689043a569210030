"""A server in a thread of its own, for programs that are not asynchronous."""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType
from typing import Any, Self

from everbus.aio.server import Server
from everbus.aio.statistics import Drained, Forced, ServerStatistics
from everbus.client.endpoint import Endpoint
from everbus.errors import ModbusTimeoutError
from everbus.service.units import UnitSource

__all__ = ["ThreadedServer", "serve_in_thread"]

_MARGIN_S = 5.0


def serve_in_thread(handler: UnitSource, *endpoints: str | Endpoint, **options: Any) -> ThreadedServer:
    """Start a server in a thread of its own and return when it serves.

    ::

        bank = everbus.Bank()
        with everbus.serve_in_thread(bank, "tcp://127.0.0.1:5020"):
            with bank.transaction():
                bank.write_holding_registers(0, [42])

    Args:
        handler: as for ``Server``.
        *endpoints: as for ``Server``.
        **options: as for ``Server``.

    Raises:
        ConnectError: an address cannot be bound; nothing is left open.
        ConfigurationError: as for ``Server``.
    """
    return ThreadedServer(Server(handler, *endpoints, **options))


class ThreadedServer:
    """Runs a server in a thread; a context manager that stops it. Safe to use from any thread."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._result: Drained | Forced = Drained(0)
        self._thread = threading.Thread(target=self._run, name="everbus-server", daemon=True)
        self._thread.start()
        self._ready.wait()
        self._raise_failure()

    def _raise_failure(self) -> None:
        if self._error is not None:
            self._thread.join()
            raise self._error

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001  it is raised in the thread that started us
            self._error = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        await self.server.start()
        self._ready.set()
        self._result = await self.server.serve_forever()

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Where it listens, as URLs."""
        return self.server.endpoints

    def statistics(self) -> ServerStatistics:
        """A snapshot of what the server has done."""
        return self.server.statistics()

    def stop(self) -> Drained | Forced:
        """Stop the server and wait for its end, within ``stop_timeout_s`` and a little. Idempotent.

        Called from a handler it only asks for the stop, and says how things stand.

        Raises:
            BaseException: what ended the server's event loop, if something did.
            ModbusTimeoutError: something blocks the server's event loop, so that it cannot stop.
        """
        if self._thread is threading.current_thread():
            self.server.request_stop()
        elif self._thread.is_alive():
            self.server.request_stop()
            limit = self.server.limits.stop_timeout_s + _MARGIN_S
            self._thread.join(limit)
            if self._thread.is_alive():
                raise ModbusTimeoutError(f"the server's thread did not end within {limit} s: a handler blocks its loop")
        self._raise_failure()
        return self._result

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
