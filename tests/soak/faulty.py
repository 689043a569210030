"""A small Modbus TCP server that is right, and servers with exactly one fault each: ``faulty.py NAME``.

It shares no code with everbus. ``judged.verdicts`` starts them as processes.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import sys

Frame = tuple[int, int, bytes]
"""Transaction, unit, PDU."""


class NotModbusError(Exception):
    """The header is not one."""


class Right:
    """Answers function codes 01 to 04 with zeros, and others with exception 01."""

    frame_timeout_s: float | None = 1.0
    write_timeout_s = 1.0

    def __init__(self) -> None:
        self.kept: list[object] = []

    async def run(self) -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
            print(listener.getsockname()[1], flush=True)
            await self.listen(listener)

    async def listen(self, listener: socket.socket) -> None:
        await asyncio.start_server(self.serve, sock=listener, limit=8192)
        await asyncio.Event().wait()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self.talk(reader, writer)
        except NotModbusError:
            await self.not_modbus(reader)
        except ConnectionError:
            self.lost()
        except (TimeoutError, asyncio.IncompleteReadError):
            pass
        finally:
            self.ended()
            writer.transport.abort()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while first := await reader.read(1):
            await self.send(writer, self.reply(await self.rest(first, reader)))
            await asyncio.sleep(0)  # now the others

    async def rest(self, first: bytes, reader: asyncio.StreamReader) -> Frame:
        async with asyncio.timeout(self.frame_timeout_s):
            transaction, protocol, length, unit = struct.unpack(">HHHB", first + await reader.readexactly(6))
            if protocol or not 2 <= length <= 254:
                raise NotModbusError
            return transaction, unit, await reader.readexactly(length - 1)

    def reply(self, frame: Frame) -> bytes:
        transaction, unit, request = frame
        pdu = answer_to(request)
        return struct.pack(">HHHB", transaction, 0, len(pdu) + 1, unit) + pdu

    async def send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(data)
        async with asyncio.timeout(self.write_timeout_s):
            await writer.drain()

    async def not_modbus(self, reader: asyncio.StreamReader) -> None:
        """Nothing: the connection is closed."""

    def lost(self) -> None:
        """Nothing is to be done."""

    def ended(self) -> None:
        """Nothing is to be done."""


def answer_to(request: bytes) -> bytes:
    code = request[0]
    if code not in (1, 2, 3, 4):
        return bytes([code | 0x80, 1])
    quantity = int.from_bytes(request[3:5])
    most = 2000 if code in (1, 2) else 125
    if len(request) != 5 or not 1 <= quantity <= most:
        return bytes([code | 0x80, 3])
    size = (quantity + 7) // 8 if code in (1, 2) else 2 * quantity
    return bytes([code, size]) + bytes(size)


class HoldsHalfFrames(Right):
    """Waits for the rest of a frame for ever."""

    frame_timeout_s = None


class StartsAnew(Right):
    """Its frame timer begins anew with each byte."""

    async def rest(self, first: bytes, reader: asyncio.StreamReader) -> Frame:
        data = first
        while len(data) < 7 or len(data) < 6 + int.from_bytes(data[4:6]):
            async with asyncio.timeout(1.5):
                data += await reader.readexactly(1)
        return int.from_bytes(data[:2]), data[6], data[7:]


class BuffersAll(Right):
    """Keeps answers that nobody reads, without a bound."""

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held = b""
        while data := await reader.read(8192):
            held += data
            while len(held) >= 12:
                writer.write(self.reply((int.from_bytes(held[:2]), held[6], held[7:12])))
                held = held[12:]
            await asyncio.sleep(0)


class WaitsForSlowReaders(Right):
    """Serves nobody while one client does not take its answer."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = asyncio.Lock()

    async def send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        async with self.turn:
            await super().send(writer, data)


class Deaf(Right):
    """After a bad header it reads on and on, and answers nothing any more."""

    async def not_modbus(self, reader: asyncio.StreamReader) -> None:
        while await reader.read(4096):
            pass


class DiesOfGarbage(Right):
    """A bad header ends the process."""

    async def not_modbus(self, reader: asyncio.StreamReader) -> None:
        os._exit(1)


class KeepsAfterReset(Right):
    """Forgets a descriptor for each connection that was reset."""

    def lost(self) -> None:
        self.kept.append(os.dup(0))


class KeepsMemory(Right):
    """Keeps 16 KiB for each connection that has ended."""

    def ended(self) -> None:
        self.kept.append(b"x" * (16 << 10))


class FirstOfSegment(Right):
    """Answers the first request of what one read brings, as pymodbus 3 does."""

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            if len(data) >= 12:
                await self.send(writer, self.reply((int.from_bytes(data[:2]), data[6], data[7:12])))


class SwapsIds(Right):
    """Of requests that come together, each is answered under the id of another."""

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while first := await reader.read(1):
            one = await self.rest(first, reader)
            try:
                async with asyncio.timeout(0.005):
                    more = await reader.readexactly(1)
            except TimeoutError:
                await self.send(writer, self.reply(one))
            else:
                other = await self.rest(more, reader)
                await self.send(writer, self.reply((other[0], *one[1:])) + self.reply((one[0], *other[1:])))
            await asyncio.sleep(0)


class AnswersTwice(Right):
    """Answers every request for a coil twice."""

    def reply(self, frame: Frame) -> bytes:
        return super().reply(frame) * (2 if frame[2][0] == 1 else 1)


class TakesThree(Right):
    """Accepts three connections; those that come later stay in the queue."""

    async def listen(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        for _ in range(3):
            accepted, _ = await loop.sock_accept(listener)
            reader, writer = await asyncio.open_connection(sock=accepted)
            self.kept.append(asyncio.create_task(self.serve(reader, writer)))
        await asyncio.Event().wait()


class RefusesMost(Right):
    """Closes each newcomer but the first three at once: it has no room, and says so."""

    served = 0

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.served += 1
        if self.served <= 3:
            await super().talk(reader, writer)


SERVERS = {
    kind.__name__: kind
    for kind in (
        Right,
        HoldsHalfFrames,
        StartsAnew,
        BuffersAll,
        WaitsForSlowReaders,
        Deaf,
        DiesOfGarbage,
        KeepsAfterReset,
        KeepsMemory,
        FirstOfSegment,
        SwapsIds,
        AnswersTwice,
        TakesThree,
        RefusesMost,
    )
}


if __name__ == "__main__":
    asyncio.run(SERVERS[sys.argv[1]]().run())
