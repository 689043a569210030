"""The figures of README.md: measured, kept as JSON, and rendered, so that none is written by hand.

``--measure`` runs everything anew (minutes, on a quiet machine) and renders; ``--write`` renders
from what was kept; ``--check`` says whether README.md and the picture are what would be rendered.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from html import escape
from pathlib import Path
from typing import Any

from bench.compare import environment, free_port, server
from everbus import __version__

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
PICTURE = ROOT / "docs" / "churn.svg"
README = ROOT / "README.md"
LEAKY = "pymodbus==3.7.4"
CYCLES = 2048

LEAKY_SERVER = """
import asyncio, sys
from pymodbus.datastore import ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext
from pymodbus.server import StartAsyncTcpServer
context = ModbusServerContext(slaves=ModbusSlaveContext(hr=ModbusSequentialDataBlock(0, [0] * 100)), single=True)
asyncio.run(StartAsyncTcpServer(context, address=("127.0.0.1", int(sys.argv[1]))))
"""

WIDTH, HEIGHT = 760, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 48, 44
COLOURS = {"everbus": "#0a7d55", LEAKY: "#c0392b"}


# Measuring


def soak(*arguments: str) -> dict[str, Any]:
    """What ``everbus soak --json`` prints."""
    command = [sys.executable, "-m", "everbus", "soak", "--json", "--cycles", str(CYCLES), *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@contextmanager
def leaky_server() -> Iterator[tuple[int, int]]:
    """The server with the leak; yields its port and its process number."""
    port = free_port()
    command = [str(environment(LEAKY)), "-c", LEAKY_SERVER, str(port)]
    with server(command, port) as pid:
        yield port, pid


def measure() -> None:
    """Run the soak on both servers, and the comparison; keep what they printed."""
    about = {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}",
        "everbus": __version__,
    }
    own = soak()
    with leaky_server() as (port, pid):
        leaky = soak(f"tcp://127.0.0.1:{port}", "--pid", str(pid))
    runs = {"everbus": own, LEAKY: leaky}
    keep("soak.json", {**about, "cycles": CYCLES, "runs": runs})
    done = subprocess.run([sys.executable, "-m", "bench.compare", "--json"], check=True, capture_output=True, text=True)
    keep("compare.json", json.loads(done.stdout))


def keep(name: str, document: dict[str, Any]) -> None:
    """Write one result."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / name).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def kept(name: str) -> dict[str, Any]:
    """Read one result."""
    document: dict[str, Any] = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    return document


# Rendering


def soak_table(document: dict[str, Any]) -> str:
    """The soak's figures as a table."""
    lines = [
        f"`everbus soak`, {document['cycles']} cycles of connect, read, disconnect with a pause of 1.5 s after half of",
        f"them ({document['date']}; {document['machine']}; everbus {document['everbus']}):",
        "",
        "| server | verdict | failed cycles | descriptors, start → peak → end | listening sockets | memory, MiB |",
        "|---|---|---|---|---|---|",
    ]
    for name, run in document["runs"].items():
        figures = [span(run["descriptors"]), span(run["listeners"]), span(run["memory"], 1 << 20)]
        lines.append(f"| {name.replace('==', ' ')} | {run['verdict']} | {run['failed']} | {' | '.join(figures)} |")
    return "\n".join(lines)


def span(figure: dict[str, int], unit: int = 1) -> str:
    """Start, peak and end."""
    values = [figure[key] / unit for key in ("start", "peak", "end")]
    return " → ".join(f"{value:.1f}" if unit > 1 else f"{value:.0f}" for value in values)


def compare_table(document: dict[str, Any]) -> str:
    """The comparison's figures as a table."""
    lines = [
        f"`make compare`: {document['connections']} connections, one request of {document['registers']} registers in",
        "flight on each, both servers asked in turn in one run, every answer checked, medians of five rounds",
        f"({document['date']}; {document['machine']}; {document['versions']}):",
        "",
        "| server | requests a second | server CPU a request, µs | answers to 16 requests in one segment |",
        "|---|---|---|---|",
    ]
    for name, rate in document["requests_per_s"].items():
        cost, answered = (document[key][name] for key in ("cpu_us_per_request", "answers_to_16_pipelined"))
        lines.append(f"| {name.replace('==', ' ')} | {rate:,} | {cost} | {answered} |")
    return "\n".join([*lines, "", f"Ratio of the rates: **{document['ratio']}**."])


def picture(document: dict[str, Any]) -> str:
    """Descriptors over cycles, both servers in one plot."""
    runs = document["runs"]
    most = max(run["descriptors"]["peak"] for run in runs.values())
    top = -(-most // 500) * 500

    def x(cycle: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * cycle / float(document["cycles"])

    def y(count: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * count / float(top)

    font = 'font-family="system-ui, sans-serif" font-size="13"'
    title = "Open descriptors of the server while clients connect, read, disconnect"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" {font}>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="24" font-size="15" font-weight="600" fill="#222">{title}</text>',
    ]
    for count in range(0, top + 1, 500):
        parts.append(f'<path d="M{LEFT} {y(count):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(count) + 4:.1f}" text-anchor="end" fill="#555">{count}</text>')
    parts += [
        f'<text x="{x(cycle):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle" fill="#555">{cycle}</text>'
        for cycle in range(0, document["cycles"] + 1, 512)
    ]
    parts.append(f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 6}" text-anchor="middle" fill="#555">cycles</text>')
    for name, run in reversed(runs.items()):
        points = " ".join(f"{x(cycle):.1f},{y(count):.1f}" for _, cycle, count, *_ in run["samples"])
        colour = COLOURS[name]
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
        end = run["descriptors"]["end"]
        label = f"{escape(name).replace('==', ' ')}: {end} at the end, {run['verdict']}"
        parts.append(
            f'<text x="{LEFT + 16}" y="{y(end) + (24 if end > top / 2 else -10):.1f}" '
            f'fill="{colour}" font-weight="600">{label}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def rendered() -> dict[Path, str]:
    """What each file should hold."""
    text = README.read_text(encoding="utf-8")
    soaked = kept("soak.json")
    for name, block in (("soak", soak_table(soaked)), ("compare", compare_table(kept("compare.json")))):
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        head, _, rest = text.partition(begin)
        _, _, tail = rest.partition(end)
        text = f"{head}{begin}\n{block}\n{end}{tail}"
    return {README: text, PICTURE: picture(soaked)}


def main() -> int:
    """Do what was asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    for name in ("--measure", "--write", "--check"):
        action.add_argument(name, action="store_true")
    options = parser.parse_args()
    if options.measure:
        measure()
    stale = [path for path, text in rendered().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if options.check:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is not what its results give; run: make figures")
        return 1 if stale else 0
    for path, text in rendered().items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
