"""``python -m bench``: measure, print, keep."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bench import tables
from bench.client_rounds import measure_clients, measure_command
from bench.hotpath import profile
from bench.plots import draw
from bench.reach import CLIENT_PROMISES, PROMISES, Promise
from bench.rounds import Plan, measure
from everbus.resources import raise_descriptor_limit

RESULTS: Final = Path(__file__).resolve().parent / "results"
_DESCRIPTORS: Final = 10_000 + 1000
_QUICK: Final = Plan(rounds=5, seconds=0.08, client_rounds=2, client_seconds=0.15)


def keep(document: dict[str, Any], folder: Path) -> None:
    """Write the raw figures, the tables and the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (folder / "bench.md").write_text(tables.everything(document), encoding="utf-8")
    draw(document, folder)


def _missed(document: dict[str, Any], promised: Sequence[Promise]) -> int:
    """The exit code: whether something that is promised was not reached."""
    return 1 if any(promise.verdict(document) == "MISSED" for promise in promised) else 0


def main() -> int:
    """Do what was asked; 1 when a promise is missed by a whole run."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two minutes, nothing kept")
    parser.add_argument("--rounds", type=int, default=Plan().rounds)
    parser.add_argument("--seconds", type=float, default=Plan().seconds, help="of each round")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder that a whole run is kept in")
    parser.add_argument("--profile", action="store_true", help="only profile the hot path")
    parser.add_argument("--clients", action="store_true", help="only the clients, on the C floor; nothing is kept")
    options = parser.parse_args()
    begin = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - begin:6.0f} s  {text}", file=sys.stderr, flush=True)

    if options.profile:
        print(profile(10))
        return 0
    raise_descriptor_limit(_DESCRIPTORS)  # what is started here inherits it
    plan = _QUICK if options.quick else Plan(options.rounds, options.seconds)
    if options.clients:
        found = {"clients": measure_clients(plan, say), "command": measure_command(plan, say)}
        print(tables.clients(found))
        return _missed(found, CLIENT_PROMISES)
    document = measure(plan, say)
    print(tables.everything(document))
    if not options.quick:
        keep(document, options.results)
    say("profile of the hot path")
    hot = profile(2 if options.quick else 10)
    print(hot)
    if options.quick:
        return 0
    (options.results / "profile.txt").write_text(hot, encoding="utf-8")
    return _missed(document, PROMISES)


if __name__ == "__main__":
    sys.exit(main())
