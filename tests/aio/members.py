"""Connections as a registry sees them."""

from __future__ import annotations

from asyncio import Future
from typing import Any

from everbus.aio.registry import Registry
from everbus.limits import Limits

PEER = "192.0.2.1"
OTHER = "192.0.2.2"
VIP = "192.0.2.99"


class Fake:
    """A connection as the registry sees it; keeps what it is told."""

    def __init__(self, host: str = PEER, at: float = 0.0, *, busy: bool = False, unsent_bytes: int = 0) -> None:
        self.host = host
        self.last_active = at
        self.busy = busy
        self.unsent_bytes = unsent_bytes
        self.ended: list[str] = []
        self.swept: list[float] = []

    def sweep(self, now: float) -> None:
        self.swept.append(now)

    def drain(self) -> None:
        raise AssertionError("the registry drains nobody")

    def exempt(self, future: Future[Any]) -> None:
        raise AssertionError("the registry exempts nobody")

    def close(self, reason: str) -> None:
        self.ended.append(f"close {reason}")

    def abort(self, reason: str) -> None:
        self.ended.append(f"abort {reason}")


def limits(most: int = 4, per_peer: int | None = None, **more: Any) -> Limits:
    more.setdefault("max_priority_connections", 1)
    return Limits(max_connections=most, max_connections_per_peer=per_peer or most, **more)


def filled(registry: Registry, *members: Fake) -> list[Fake]:
    """Admit members at the times they carry; each must get a slot."""
    for member in members:
        assert registry.admit(member, member.last_active) is None
    return list(members)


def use(registry: Registry, member: Fake, now: float) -> None:
    member.last_active = now
    registry.touch(member)
