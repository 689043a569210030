"""Two network namespaces with a cable between them, for faults that no loopback has."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Final

_NEW_NETWORK: Final = 0x40000000
"""CLONE_NEWNET."""

SERVER_ADDRESS: Final = "10.213.77.1"
CLIENT_ADDRESS: Final = "10.213.77.2"


@dataclass(frozen=True)
class Cable:
    """A server's namespace and a client's; each end of the cable is called ``cable``."""

    server: str
    client: str


def run(*command: str) -> None:
    """Run one command of iproute2; RuntimeError with what it says if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


def inside(namespace: str, *command: str) -> None:
    """Run one command inside a namespace."""
    run("ip", "netns", "exec", namespace, *command)


@contextmanager
def cabled() -> Iterator[Cable]:
    """Two namespaces, connected, gone at the end with all that is in them."""
    cable = Cable(f"everbus-server-{os.getpid()}", f"everbus-client-{os.getpid()}")
    try:
        for name in (cable.server, cable.client):
            run("ip", "netns", "add", name)
        run("ip", "-n", cable.server, "link", "add", "cable", "type", "veth", "peer", "cable", "netns", cable.client)
        for name, address in ((cable.server, SERVER_ADDRESS), (cable.client, CLIENT_ADDRESS)):
            run("ip", "-n", name, "address", "add", f"{address}/30", "dev", "cable")
            run("ip", "-n", name, "link", "set", "cable", "up")
            run("ip", "-n", name, "link", "set", "lo", "up")
        yield cable
    finally:
        for name in (cable.server, cable.client):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False, timeout=20)


@cache
def why_no_namespaces() -> str:
    """Why this machine cannot make namespaces, found by trying; empty: it can."""
    try:
        with cabled():
            return ""
    except (OSError, RuntimeError) as error:
        return f"no network namespaces here: {error}"


def socket_in(namespace: str) -> socket.socket:
    """A TCP socket that lives in a namespace; it may be used from any thread."""
    found: list[socket.socket | OSError] = []

    def make() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        with open(f"/run/netns/{namespace}", "rb") as file:
            if libc.setns(file.fileno(), _NEW_NETWORK):
                found.append(OSError(ctypes.get_errno(), f"cannot enter {namespace}"))
                return
        found.append(socket.socket())

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if isinstance(found[0], OSError):
        raise found[0]
    return found[0]
