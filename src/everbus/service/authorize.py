"""Who may do what: asked before the unit is looked up, so that nobody maps a device by its errors.

Modbus/TCP Security R-23 to R-31 (spec.md 6.4): inputs are the role, the function and the range.
"""

from __future__ import annotations

from typing import Final, Protocol

from everbus.protocol.pdu.table import AnyRequest
from everbus.service.context import RequestContext

__all__ = ["ALLOW_ALL", "AllowAll", "Policy"]


class Policy(Protocol):
    """Decides about requests."""

    unconditional: bool
    """Every request is allowed, so that plain reads need not be decoded to be decided."""

    def allows(self, request: AnyRequest, context: RequestContext) -> bool:
        """Whether this request may be executed; if not it is answered with exception 01 (R-31)."""
        ...


class AllowAll:
    """Everybody may do everything."""

    __slots__ = ()
    unconditional = True

    def allows(self, request: AnyRequest, context: RequestContext) -> bool:
        """Yes."""
        return True


ALLOW_ALL: Final = AllowAll()
