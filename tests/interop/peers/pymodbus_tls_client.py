"""A pymodbus client over TLS: ``pymodbus_tls_client.py FOLDER sync|async PORT UNIT``.

FOLDER has ``cert.pem``, ``key.pem`` and ``ca.pem``; the rest is as in ``pymodbus_client.py``.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from pathlib import Path
from typing import Any

import pymodbus_client
from pymodbus.client import AsyncModbusTlsClient, ModbusTlsClient


def context(folder: Path, mode: str) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    made.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    made.check_hostname = mode == "async"  # the blocking client tells nobody whom it wants
    return made


def main(folder: Path, mode: str, port: str, unit: int) -> None:
    def new_client(mode: str, port: str) -> Any:
        kind = AsyncModbusTlsClient if mode == "async" else ModbusTlsClient
        return kind("127.0.0.1", port=int(port), sslctx=context(folder, mode), timeout=5)

    vars(pymodbus_client)["new_client"] = new_client
    asyncio.run(pymodbus_client.main(mode, port, unit))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))
