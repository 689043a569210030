"""Modbus TCP servers that behave, or misbehave in one known way each: run as ``servers.py MODE``.

Each answers FC 03 with one register and prints its port. ``running`` starts one as a process.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from everbus.client.endpoint import Endpoint
from everbus.resources import listening_addresses

if TYPE_CHECKING:
    from collections.abc import Iterator

GOOD = bytes.fromhex("0000 0005 01 03 02 002a")
ANSWERS = {
    "exception": bytes.fromhex("0000 0003 01 83 02"),
    "wrong_protocol": bytes.fromhex("0001 0005 01 03 02 002a"),
    "wrong_unit": bytes.fromhex("0000 0005 02 03 02 002a"),
    "wrong_function": bytes.fromhex("0000 0005 01 04 02 002a"),
    "wrong_count": bytes.fromhex("0000 0007 01 03 04 002a002b"),
    "broken_count": bytes.fromhex("0000 0005 01 03 04 002a"),
    "foreign_exception": bytes.fromhex("0000 0003 01 84 02"),
}


class Server:
    """One listening socket, one mode."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.served = 0
        self.kept: list[object] = []
        self.listener: asyncio.Server | None = None

    async def run(self) -> None:
        self.listener = await asyncio.start_server(self.serve, "127.0.0.1", 0, backlog=512)
        print(self.listener.sockets[0].getsockname()[1], flush=True)
        await asyncio.Event().wait()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.served += 1
        with suppress(OSError, asyncio.IncompleteReadError):
            await self.before()
            request = await reader.readexactly(12)
            await self.answer(writer, request[:2])
            await reader.read()
        with suppress(OSError):
            await self.after(writer)

    async def before(self) -> None:
        if self.mode == "warm_up" and self.served == 1:
            self.kept += [os.dup(0) for _ in range(40)]
        elif self.mode == "dies" and self.served == 100:
            os._exit(1)
        elif self.mode == "leaks_and_dies":
            self.kept.append(os.dup(0))
            if self.served == 100:
                os._exit(1)

    async def answer(self, writer: asyncio.StreamWriter, transaction: bytes) -> None:
        mode = self.mode
        if mode == "silent" or (mode == "fails_later" and self.served > 30):
            return
        if mode == "closes":
            writer.close()
        elif mode == "resets":
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
        elif mode == "wrong_transaction":
            writer.write(b"\xab\xcd" + GOOD)
        elif mode == "dribbles":
            for byte in transaction + GOOD:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.002)
        else:
            writer.write(transaction + ANSWERS.get(mode, GOOD))

    async def after(self, writer: asyncio.StreamWriter) -> None:
        if self.mode == "leaks_listeners":  # as pymodbus 3.7.4 did
            await asyncio.sleep(1)
            listener = socket.create_server(("127.0.0.1", 0))
            self.kept.append(listener)
        elif self.mode == "leaks_descriptors":
            self.kept.append(os.dup(0))
        elif self.mode == "leaks_in_child":
            self.kept.append(subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=-1))
        elif self.mode == "closes_late":
            await asyncio.sleep(2)
        writer.close()
        await writer.wait_closed()


@dataclass(frozen=True)
class Running:
    """A server under way."""

    endpoint: Endpoint
    process: subprocess.Popen[str]

    @property
    def pid(self) -> int:
        return self.process.pid


@contextmanager
def running(mode: str, script: str = __file__) -> Iterator[Running]:
    """A server as a process of its own, ended with the block."""
    with subprocess.Popen(
        [sys.executable, script, mode], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            port = int(process.stdout.readline())
            yield Running(Endpoint("tcp", host="127.0.0.1", port=port), process)
        finally:
            process.kill()


def wait_until_it_listens(pid: int, port: int, timeout_s: float = 20.0) -> None:
    """Return once a process accepts connections on a port of 127.0.0.1; fail if it does not."""
    deadline = time.monotonic() + timeout_s
    while f"127.0.0.1:{port}" not in listening_addresses(pid):
        assert time.monotonic() < deadline, f"process {pid} does not listen on port {port}"
        time.sleep(0.05)


if __name__ == "__main__":
    asyncio.run(Server(sys.argv[1]).run())
