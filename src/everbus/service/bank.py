"""A register bank: the four tables of one device, in memory (AP 4.3; spec.md 3).

A bank belongs to one event loop: requests are answered there, one at a time, so each is atomic.
Other threads, and code that changes several things at once, use ``transaction()``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from enum import StrEnum

from everbus.errors import UsageError
from everbus.observe import NULL_OBSERVER, Event, EventKind, Observer, error_text
from everbus.protocol.values import unpack_bits, unpack_registers
from everbus.service.context import RequestContext
from everbus.service.memory import BitTable, RegisterTable, TableSpec

__all__ = ["Bank", "TableName", "Write"]


class TableName(StrEnum):
    """The four tables."""

    COILS = "coils"
    DISCRETE_INPUTS = "discrete_inputs"
    INPUT_REGISTERS = "input_registers"
    HOLDING_REGISTERS = "holding_registers"


@dataclass(frozen=True, slots=True)
class Write:
    """A write that has happened.

    Args:
        table: where.
        address: first item, 0..65535.
        count: how many items.
        data: their new values as wire bytes.
        context: who asked; None: the program itself.
    """

    table: TableName
    address: int
    count: int
    data: bytes
    context: RequestContext | None

    @property
    def values(self) -> list[int] | list[bool]:
        """The new values: bits for coils and discrete inputs, else registers."""
        if self.table in (TableName.COILS, TableName.DISCRETE_INPUTS):
            return unpack_bits(self.data, self.count)
        return unpack_registers(self.data)


WriteCallback = Callable[[Write], None]


class Bank:
    """Four tables, each with all 65,536 items unless told otherwise; all zero at first.

    Args:
        coils, discrete_inputs, input_registers, holding_registers: how large each is: None for
            all 65,536 items, a number of items from address 0, or ranges of (address, count).
            Items outside answer exception 02.
        lock: serialises threads; re-entrant, as ``threading.RLock()``. A server gives its banks one
            when it starts, so this is only needed to use ``transaction()`` from threads without a server.

    Raises:
        UsageError: a range leaves its table.
    """

    def __init__(
        self,
        *,
        coils: TableSpec = None,
        discrete_inputs: TableSpec = None,
        input_registers: TableSpec = None,
        holding_registers: TableSpec = None,
        lock: AbstractContextManager[object] | None = None,
    ) -> None:
        self._tables: dict[TableName, BitTable | RegisterTable] = {
            TableName.COILS: BitTable("coil", coils),
            TableName.DISCRETE_INPUTS: BitTable("discrete input", discrete_inputs),
            TableName.INPUT_REGISTERS: RegisterTable("input register", input_registers),
            TableName.HOLDING_REGISTERS: RegisterTable("holding register", holding_registers),
        }
        self._callbacks: list[WriteCallback] = []
        self._observer: Observer = NULL_OBSERVER
        self._shared = lock is not None
        self.lock: AbstractContextManager[object] = lock or nullcontext()

    def table(self, name: TableName) -> BitTable | RegisterTable:
        """One of the four tables."""
        return self._tables[name]

    def attach(self, lock: AbstractContextManager[object], observer: Observer) -> None:
        """Take over a host's lock, unless there is one, and its observer. Called by the host."""
        if not self._shared:
            self.lock, self._shared = lock, True
        self._observer = observer

    @contextmanager
    def transaction(self) -> Iterator[Bank]:
        """Hold the bank: no request is answered from it meanwhile. For any thread; keep it short.

        Raises:
            UsageError: the bank has no lock: no server has started with it, and none was given.
        """
        if not self._shared:
            raise UsageError(
                "this bank has no lock yet: a server gives it one at start, or build it with "
                "Bank(lock=threading.RLock())"
            )
        with self.lock:
            yield self

    def on_write(self, callback: WriteCallback) -> Callable[[], None]:
        """Call ``callback`` after each write, in the thread that wrote; return a way to stop that.

        Callbacks run outside the lock: of writes in different threads the order is not kept.

        What it raises is reported to the server's observer and changes nothing: the write has
        happened and is confirmed.
        """
        self._callbacks.append(callback)

        def unsubscribe() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return unsubscribe

    def read_coils(self, address: int, count: int = 1) -> list[bool]:
        """Coils from ``address`` on; raises ``ExceptionResponseError`` (02) where they do not exist."""
        return self._read_bits(TableName.COILS, address, count)

    def read_discrete_inputs(self, address: int, count: int = 1) -> list[bool]:
        """Discrete inputs; raises ``ExceptionResponseError`` (02) where they do not exist."""
        return self._read_bits(TableName.DISCRETE_INPUTS, address, count)

    def read_input_registers(self, address: int, count: int = 1) -> list[int]:
        """Input registers; raises ``ExceptionResponseError`` (02) where they do not exist."""
        return self._read_registers(TableName.INPUT_REGISTERS, address, count)

    def read_holding_registers(self, address: int, count: int = 1) -> list[int]:
        """Holding registers; raises ``ExceptionResponseError`` (02) where they do not exist."""
        return self._read_registers(TableName.HOLDING_REGISTERS, address, count)

    def write_coils(self, address: int, values: Sequence[bool | int]) -> None:
        """Set coils from ``address`` on; raises as reading does, ``UsageError`` for a bad value."""
        self._write(TableName.COILS, address, values)

    def write_discrete_inputs(self, address: int, values: Sequence[bool | int]) -> None:
        """Set discrete inputs: clients can only read them."""
        self._write(TableName.DISCRETE_INPUTS, address, values)

    def write_input_registers(self, address: int, values: Sequence[int]) -> None:
        """Set input registers, 0..65535 each: clients can only read them."""
        self._write(TableName.INPUT_REGISTERS, address, values)

    def write_holding_registers(self, address: int, values: Sequence[int]) -> None:
        """Set holding registers, 0..65535 each."""
        self._write(TableName.HOLDING_REGISTERS, address, values)

    def _read_bits(self, name: TableName, address: int, count: int) -> list[bool]:
        data = self.read_wire(name, address, count)
        return unpack_bits(data, count)

    def _read_registers(self, name: TableName, address: int, count: int) -> list[int]:
        return unpack_registers(self.read_wire(name, address, count))

    def _write(self, name: TableName, address: int, values: Sequence[int]) -> None:
        self.write_wire(name, address, len(values), self._tables[name].pack(values))

    def read_wire(self, name: TableName, address: int, count: int) -> bytes:
        """Items as wire bytes; raises ``ExceptionResponseError`` (02) where they do not exist."""
        table = self._tables[name]
        with self.lock:
            table.require(address, count)
            return bytes(table.read_wire(address, count))

    def write_wire(
        self, name: TableName, address: int, count: int, data: bytes, context: RequestContext | None = None
    ) -> None:
        """Set items from wire bytes, all or none, and tell the callbacks.

        Raises:
            ExceptionResponseError: exception 02: not all of them exist.
            UsageError: there are more or fewer bytes than ``count`` items take.
        """
        table = self._tables[name]
        if len(data) != table.bytes_for(count):
            raise UsageError(f"{count} items take {table.bytes_for(count)} bytes, not {len(data)}")
        with self.lock:
            table.require(address, count)
            table.write_wire(address, count, data)
        self.tell(Write(name, address, count, data, context))

    def tell(self, write: Write) -> None:
        """Call the callbacks."""
        for callback in tuple(self._callbacks):
            try:
                callback(write)
            except Exception as error:  # noqa: BLE001  somebody else's code: the write has happened
                event = Event(EventKind.HANDLER_FAILED, reason="write_callback", detail=error_text(error), error=error)
                self._observer.notify(event)
