"""A tmodbus client over TLS: ``tmodbus_tls_client.py FOLDER PORT UNIT``.

FOLDER has ``cert.pem``, ``key.pem`` and ``ca.pem``; the rest is as in ``tmodbus_client.py``.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from functools import partial
from pathlib import Path

import tmodbus_client
from tmodbus import create_async_tcp_client


def main(folder: Path, port: int, unit: int) -> None:
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    vars(tmodbus_client)["create_async_tcp_client"] = partial(create_async_tcp_client, ssl=context)
    asyncio.run(tmodbus_client.main(port, unit))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
