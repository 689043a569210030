"""A run's document as Markdown: ratios first, absolute figures beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from bench.cases import CASES, CHURN_CONNECTIONS, CLIENT_CASES, IDLE_CONNECTIONS, Case
from bench.contenders import OWN
from bench.reach import CLIENT_PROMISES, PROMISES, Promise, client_ratio, per_s, ratio

__all__ = ["about", "client_rates", "clients", "everything", "lost", "promises", "rates"]

Document = dict[str, Any]


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    lines = [list(head)]
    lines += [["---"] * len(lines[0]), *map(list, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown(name: str) -> str:
    """A contender's name for people."""
    return name.replace("==", " ")


def names(document: Document) -> list[str]:
    """Who took part, in order."""
    return list(document["churn"])


def about(document: Document) -> str:
    """When, where, with what."""
    facts = document["about"]
    versions = ", ".join(filter(None, (_version(document, name) for name in names(document))))
    pinned = "; servers on one processor, the load on another" if facts["pinned"] else ""
    if facts["pinned"] and facts["load_generator"] == "C":
        pinned += ", where it polls without sleeping"
    return (
        f"{facts['date']}; {facts['machine']}; everbus {facts['everbus']}; {versions}; "
        f"load generator in {facts['load_generator']}; medians of {facts['rounds']} rounds of {facts['seconds']:g} s, "
        f"interleaved, every answer checked{pinned}."
    )


def _version(document: Document, name: str) -> str:
    said = " ".join(document["about"]["versions"][name].split())
    return f"{shown(name)} ({said})" if said else ""


def promises(document: Document, promised: Sequence[Promise] = PROMISES) -> str:
    """What is promised and what this run shows."""
    rows = []
    for promise in promised:
        value = promise.value(document)
        bound = f"{'at most' if promise.at_most else 'at least'} {promise.bound:g}, aim {promise.aim:g}"
        rows.append([promise.what, "-" if value is None else f"{value:.2f}", bound, promise.verdict(document)])
    return table(["what", "this run", "promised", "verdict"], rows)


def ratios(document: Document) -> str:
    """The rate of everbus on asyncio as a multiple of each other server's."""
    peers = [name for name in names(document) if name != OWN]
    rows = []
    for case in CASES:
        values = (ratio(document, case, peer) for peer in peers)
        rows.append([case.title, *("-" if value is None else f"{value:.2f}" for value in values)])
    return table(["everbus on asyncio, times the rate of", *map(shown, peers)], rows)


def rates(document: Document) -> str:
    """Requests answered a second."""
    rows = []
    for case in CASES:
        values = (per_s(document, case, name) for name in names(document))
        rows.append([case.title, *("-" if value is None else f"{value:,.0f}" for value in values)])
    return table(["requests a second", *map(shown, names(document))], rows)


def figures(document: Document, head: str, key: str, text: Callable[[float], str]) -> str:
    """One figure of every case."""
    rows = []
    for case in CASES:
        found = document["cases"][case.name]
        rows.append([case.title, *(text(found[name]["median"][key]) for name in names(document))])
    return table([head, *map(shown, names(document))], rows)


def latencies(document: Document) -> str:
    """50th, 99th and 99.9th percentile."""
    rows = []
    for case in CASES:
        found = document["cases"][case.name]
        medians = (found[name]["median"] for name in names(document))
        rows.append(
            [case.title, *(" / ".join(f"{m[k]:,.0f}" for k in ("p50_us", "p99_us", "p999_us")) for m in medians)]
        )
    return table(["latency p50 / p99 / p99.9, µs", *map(shown, names(document))], rows)


def others(document: Document) -> str:
    """Cycles, idle connections, import, start."""

    def row(words: str, key: str, value: Callable[[dict[str, Any]], str]) -> list[str]:
        return [words, *(value(document[key][name]) if name in document[key] else "-" for name in names(document))]

    def milliseconds(measured: dict[str, Any]) -> str:
        return f"{measured['median']['s'] * 1000:.0f}"

    cycles = f"connect, read, close a second, {CHURN_CONNECTIONS} at a time"
    idle = f"bytes of an idle connection among {IDLE_CONNECTIONS:,}"
    rows = [
        row(cycles, "churn", lambda measured: f"{measured['median']['per_s']:,.0f}"),
        row(idle, "idle", lambda measured: f"{measured['bytes_each']:,}" if measured["connections"] else "not reached"),
        row("import, ms", "import", milliseconds),
        row("from the command to the first answer, ms", "start", milliseconds),
    ]
    return table(["", *map(shown, names(document))], rows)


def client_names(document: Document) -> list[str]:
    """The clients that took part, in order."""
    return list(dict.fromkeys(name for case in CLIENT_CASES for name in document["clients"].get(case.name, {})))


def client_rates(document: Document) -> str:
    """Reads a second."""

    def cell(measured: dict[str, Any]) -> str:
        return f"{measured['per_s']:,.0f}"

    return client_figures(document, "clients: reads of 10 registers a second", cell)


def client_figures(document: Document, head: str, cell: Callable[[dict[str, Any]], str]) -> str:
    """Something of every case that has it."""
    found = client_names(document)
    rows = []
    for case in CLIENT_CASES:
        measured = document["clients"].get(case.name, {})
        cells = [cell(measured[name]["median"]) if name in measured else "-" for name in found]
        if set(cells) != {"-"}:
            rows.append([case.title, *cells])
    return table([head, *map(shown, found)], rows)


def client_ratios(document: Document) -> str:
    """The rate of our client as a multiple of each other's."""
    peers = [name for name in client_names(document) if name != OWN]
    rows = []
    for case in CLIENT_CASES:
        values = (client_ratio(document, case, peer) for peer in peers)
        rows.append([case.title, *("-" if value is None else f"{value:.2f}" for value in values)])
    return table(["everbus' client, times the rate of", *map(shown, peers)], rows)


def clients(document: Document) -> str:
    """All about the clients."""

    def latency(measured: dict[str, Any]) -> str:
        return f"{measured['p50_us']:,.0f} / {measured['p99_us']:,.0f}" if "p50_us" in measured else "-"

    def cost(measured: dict[str, Any]) -> str:
        return f"{measured['client_cpu_us']:.1f}"

    parts = [
        promises(document, CLIENT_PROMISES),
        client_ratios(document),
        client_rates(document),
        client_figures(document, "clients: latency p50 / p99, µs", latency),
        client_figures(document, "clients: processor time, µs a read", cost),
    ]
    return "\n\n".join(parts)


def lost(document: Document) -> str:
    """Requests that nobody answered: the most of any round, by case and server."""
    cases = (case for case in CASES if any(m["median"]["lost"] for m in document["cases"][case.name].values()))
    said = "; ".join(_lost(document, case) for case in cases) or "none"
    return f"Requests that were never answered: {said}."


def everything(document: Document) -> str:
    """All of it."""
    mebibyte = 1 << 20
    parts = [
        "# everbus beside its peers",
        about(document),
        *(f"Not here: {shown(name)}: {why}." for name, why in document["missing"].items()),
        promises(document),
        ratios(document),
        rates(document),
        latencies(document),
        figures(document, "processor time of the server, µs a request", "server_cpu_us", lambda v: f"{v:.1f}"),
        figures(document, "memory of the server afterwards, MiB", "memory_bytes", lambda v: f"{v / mebibyte:.0f}"),
        others(document),
        lost(document),
    ]
    return "\n\n".join(parts) + "\n"


def _lost(document: Document, case: Case) -> str:
    found = document["cases"][case.name].items()
    by = (f"{m['median']['lost']:,.0f} by {shown(name)}" for name, m in found if m["median"]["lost"])
    return f"{case.title}: {', '.join(by)}"
