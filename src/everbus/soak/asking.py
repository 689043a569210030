"""Requests that are in order: made with everbus's own client, so that a run proves both ends of the wire."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from everbus.client.health import ClientStatistics
from everbus.errors import (
    ClientClosedError,
    ConnectError,
    ExceptionResponseError,
    FramingError,
    ModbusError,
    ServerStateError,
)
from everbus.soak.target import CutShortError, CycleFailedError, FailureKind, Target, kind_of
from everbus.sync.client import Client

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Asker", "ClientRecord", "ClientTotals", "asking", "read_once"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientRecord:
    """What everbus's own clients counted, all of them together; see ``ClientStatistics``.

    Args:
        clients: how many they were: each polite client, and each cycle that asked with one.
        calls, retries: requests, and how often one was sent again.
        connects, connect_failures, lost: connections made, not made, and ended by the server.
        replaced: connections given up as their bytes could not be trusted any more, by reason.
        late, unknown, mismatched: answers to requests that had been given up, to requests never made,
            and such as do not fit their request. No caller got one.
    """

    clients: int
    calls: int
    retries: int
    connects: int
    connect_failures: int
    lost: int
    replaced: dict[str, int]
    late: int
    unknown: int
    mismatched: int


class ClientTotals:
    """Sums up what clients counted; for any number of threads."""

    def __init__(self) -> None:
        self._counts = Counter[str]()
        self._replaced = Counter[str]()
        self._lock = threading.Lock()

    def add(self, seen: ClientStatistics) -> None:
        """A client is done; this is what it counted."""
        with self._lock:
            self._counts["clients"] += 1
            for name in ("calls", "retries", "connects", "connect_failures", "lost"):
                self._counts[name] += getattr(seen, name)
            for name in ("late", "unknown", "mismatched"):
                self._counts[name] += getattr(seen.session, name)
            self._replaced.update(seen.replaced)

    def record(self) -> ClientRecord:
        """The sums so far."""
        with self._lock:
            names = (name for name in ClientRecord.__slots__ if name != "replaced")
            return ClientRecord(**{name: self._counts[name] for name in names}, replaced=dict(self._replaced))


class Asker:
    """One client of a server; whatever goes wrong, unseen by its caller too, is the server's failure.

    Args:
        target: the server.
        client: of that server; it does not repeat requests.
    """

    def __init__(self, target: Target, client: Client) -> None:
        self._target = target
        self._client = client
        self._unit = client.unit(target.unit)
        self._before = ClientStatistics()

    def connect(self) -> None:
        """Connect, unless a connection is up.

        Raises:
            As ``Target.reach``.
        """
        self._target.reach(self._client.connect)

    def read(self, quantity: int = 1) -> None:
        """Read so many holding registers from address 0; a Modbus exception is an answer too.

        Raises:
            CycleFailedError: there was no answer, or a wrong one, or the connection had to be replaced.
            CutShortError: the run has ended.
        """
        self._target.go_on()
        failed: ModbusError | None = None
        try:
            self._unit.read_holding_registers(0, quantity)
        except ExceptionResponseError:
            pass
        except (ClientClosedError, ServerStateError) as error:  # nobody closes it before the end of the run
            raise CutShortError from error
        except ModbusError as error:
            failed = error
        failure = self._failure(failed)
        if failure is not None:
            raise failure from failed

    def _failure(self, error: ModbusError | None) -> CycleFailedError | None:
        """What went wrong, if anything did, with what the client copes with in silence, as it should."""
        before, now = self._before, self._client.statistics()
        self._before = now
        between = error is None or isinstance(error, ConnectError)  # not in this very exchange
        if now.session.unknown > before.session.unknown:
            return CycleFailedError(FailureKind.BAD_ANSWER, "an answer to a request that was not made")
        if between and now.lost > before.lost:
            return CycleFailedError(FailureKind.RESET, "the connection was ended between two requests")
        if between and now.replaced != before.replaced:
            return CycleFailedError(FailureKind.BAD_ANSWER, "what came between two requests is no Modbus")
        if error is None:
            return None
        if isinstance(error.__cause__, FramingError):
            return CycleFailedError(FailureKind.BAD_ANSWER, str(error.__cause__))
        kind = kind_of(error) if isinstance(error, OSError) else FailureKind.BAD_ANSWER
        return CycleFailedError(kind, str(error))


@contextmanager
def asking(target: Target) -> Iterator[Asker]:
    """A client of a server, not connected yet; closed at the end of the block, or of the run."""
    timeout_s = target.timeout_s
    # A second attempt would hide that the first was lost, and here each loss counts.
    client = Client(target.endpoint, timeout_s=timeout_s, connect_timeout_s=timeout_s, retries=0)
    try:
        with nullcontext() if target.stop is None else target.stop.ending(client.close):
            yield Asker(target, client)
    finally:
        client.close()
        if target.totals is not None:
            target.totals.add(client.statistics())


def read_once(target: Target) -> None:
    """Connect, read one holding register, disconnect.

    Raises:
        As ``Asker.connect`` and ``Asker.read``.
    """
    with asking(target) as asker:
        asker.connect()
        asker.read()
