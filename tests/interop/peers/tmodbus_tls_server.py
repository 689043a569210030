"""A tmodbus server over TLS that answers with the role of whoever asks, in registers; prints its port.

``tmodbus_tls_server.py FOLDER``, which has ``cert.pem``, ``key.pem`` and ``ca.pem``. Who has no role gets exception 01.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
from pathlib import Path
from typing import Any

from tmodbus.exceptions import IllegalFunctionError
from tmodbus.pdu import ReadHoldingRegistersPDU
from tmodbus.server import AsyncTcpServer, ModbusRequestRouter, extract_modbus_role

router = ModbusRequestRouter()


@router.register(ReadHoldingRegistersPDU, unit_id=1)  # type: ignore[untyped-decorator]
async def read(unit: int, request: Any, context: Any) -> list[int]:
    role = extract_modbus_role(context.client_cert)
    if role is None:
        raise IllegalFunctionError(request.function_code)
    data = role.encode().ljust(2 * request.quantity, b"\0")
    return [int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2)]


async def main(folder: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(folder / "ca.pem"))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    print(port, flush=True)
    await AsyncTcpServer("127.0.0.1", router, port=port, ssl_context=context).serve_forever()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
