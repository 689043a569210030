"""A storm of connects: ``storm.py PORT RATE SECONDS`` connects from four addresses and leaves.

Prints how many connects it made, how many failed, and how many seconds it took.
"""

from __future__ import annotations

import socket
import sys
import time

_MOST_LATE_S = 0.02
"""A storm that was held up does not make up for more than this, or it would be worse than asked for."""


def main(port: int, rate: float, seconds: float) -> str:
    connects = failed = 0
    begun = due = time.monotonic()
    while (now := time.monotonic()) - begun < seconds:
        if now < due:
            time.sleep(0.0005)
            continue
        due = max(due + 1 / rate, now - _MOST_LATE_S)
        connects += 1
        with socket.socket() as sock:
            sock.settimeout(5.0)
            sock.bind((f"127.0.6.{1 + connects % 4}", 0))
            try:
                sock.connect(("127.0.0.1", port))
            except OSError:
                failed += 1
    return f"{connects} {failed} {time.monotonic() - begun:.3f}"


if __name__ == "__main__":
    sys.stdout.write(main(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])) + "\n")
