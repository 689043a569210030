"""The figures of README.md: rendered from results that the project's own commands wrote, none by hand.

``--measure`` runs the churn comparison anew and renders; the bench and the long soak write their
results themselves (``make bench``, ``make soak``). ``--write`` renders from what is kept;
``--check`` says whether README.md and the picture are what would be rendered.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

from bench import tables
from bench.contenders import Contender, running
from everbus import __version__
from everbus.soak.plots import plot_comparison
from tools.environments import PYMODBUS_LEAKY, environment

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
BENCH = ROOT / "bench" / "results" / "bench.json"
LONG_SOAK = ROOT / "docs" / "soak" / "report.json"
PICTURE = ROOT / "docs" / "churn.svg"
README = ROOT / "README.md"
LEAKY_SERVER = ROOT / "bench" / "peers" / "pymodbus_leaky_server.py"
CYCLES = 2048
MEBIBYTE = 1 << 20


# Measuring


def soak(*arguments: str) -> dict[str, Any]:
    """What ``everbus soak --json`` prints."""
    command = [sys.executable, "-m", "everbus", "soak", "--json", "--cycles", str(CYCLES), *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise RuntimeError(done.stderr)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def measure() -> None:
    """Run the churn on both servers; keep what it printed."""
    own = soak()
    leaky = Contender(name=PYMODBUS_LEAKY, command=(str(environment(PYMODBUS_LEAKY)), str(LEAKY_SERVER)))
    with running(leaky) as server:
        convicted = soak(f"tcp://127.0.0.1:{server.port}", "--pid", str(server.pid))
    document = {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}",
        "everbus": __version__,
        "cycles": CYCLES,
        "runs": {"everbus": own, PYMODBUS_LEAKY: convicted},
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "churn.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def kept(path: Path) -> dict[str, Any]:
    """Read one result."""
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


# Rendering


def churn_table(document: dict[str, Any]) -> str:
    """The churn's figures as a table."""
    pause_s = document["runs"]["everbus"]["options"]["pause_s"]
    lines = [
        f"`everbus soak`, {document['cycles']} cycles of connect, read, disconnect with a pause of {pause_s:g} s after",
        f"half of them ({document['date']}; {document['machine']}; everbus {document['everbus']}):",
        "",
        "| server | verdict | failed cycles | descriptors, start → peak → end | listening sockets | memory, MiB |",
        "|---|---|---|---|---|---|",
    ]
    for name, run in document["runs"].items():
        figures = [span(run["descriptors"]), span(run["listeners"]), span(run["memory"], MEBIBYTE)]
        lines.append(f"| {name.replace('==', ' ')} | {run['verdict']} | {run['failed']} | {' | '.join(figures)} |")
    return "\n".join(lines)


def span(figure: dict[str, int], unit: int = 1) -> str:
    """Start, peak and end."""
    values = [figure[key] / unit for key in ("start", "peak", "end")]
    return " → ".join(f"{value:.1f}" if unit > 1 else f"{value:.0f}" for value in values)


def long_soak_lines(document: dict[str, Any]) -> str:
    """The long soak's figures in a few lines."""
    polite = document["polite"]
    return f"""\
`everbus soak --scenario mixed`, {document["duration_s"] / 60:.0f} minutes
({document["started"][:10]}; {document["machine"]}; everbus {document["everbus"]}): **{document["verdict"]}**.
{document["cycles"]:,} attacks, {document["failed"]:,} of them failed; {polite["requests"]:,} polite requests beside,
{polite["failed"]:,} failed, {polite["p99_s"] * 1000:.1f} ms at the 99th percentile.
Descriptors {span(document["descriptors"])}, listening sockets {span(document["listeners"])},
memory {span(document["memory"], MEBIBYTE)} MiB (start → peak → end).
The [whole report](docs/soak/report.md) has the criterion, the plots and the raw samples."""


def bench_block(document: dict[str, Any]) -> str:
    """What the bench promises and shows; the rest is linked."""
    return "\n\n".join(
        [
            f"`make bench`: {tables.about(document)}",
            tables.promises(document),
            tables.rates(document),
            tables.lost(document),
            "![Requests answered a second](bench/results/rates.svg)",
            "Latencies, processor time, memory, import and start: [bench/results](bench/results/bench.md).",
        ]
    )


def rendered() -> dict[Path, bytes]:
    """What each file should hold."""
    text = README.read_text(encoding="utf-8")
    churn = kept(RESULTS / "churn.json")
    for name, block in (
        ("churn", churn_table(churn)),
        ("soak", long_soak_lines(kept(LONG_SOAK))),
        ("bench", bench_block(kept(BENCH))),
    ):
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        head, _, rest = text.partition(begin)
        _, _, tail = rest.partition(end)
        text = f"{head}{begin}\n{block}\n{end}{tail}"
    runs = {name.replace("==", " "): run for name, run in churn["runs"].items()}
    title = "Open descriptors of the server while clients connect, read, disconnect"
    return {README: text.encode(), PICTURE: plot_comparison(runs, "svg", title)}


def main() -> int:
    """Do what was asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    for name in ("--measure", "--write", "--check"):
        action.add_argument(name, action="store_true")
    options = parser.parse_args()
    if options.measure:
        measure()
    files = rendered()
    stale = [path for path, content in files.items() if not path.exists() or path.read_bytes() != content]
    if options.check:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is not what its results give; run: python -m tools.figures --write")
        return 1 if stale else 0
    for path in stale:
        path.write_bytes(files[path])
    return 0


if __name__ == "__main__":
    sys.exit(main())
