"""Reports of soak runs, as Markdown or HTML: the verdict first, then what it rests on, the picture, the raw samples.

The HTML is one file that needs nothing else. The Markdown has its picture and its raw samples beside it.
"""

from __future__ import annotations

import csv
import io
import os
import re
from base64 import b64encode
from html import escape
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote

from everbus.errors import ConfigurationError
from everbus.soak.drawing import ensure_drawable, ensure_writable, plain
from everbus.soak.plots import plot_run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

__all__ = ["check_report", "write_report"]

_MIB: Final = 1 << 20
_MARKUP: Final = re.compile(r"([\\`*\[\]<>|#~&$]|(?<![^\W_])_|_(?![^\W_]))")
_PROCESS_COLUMNS: Final = ("at_s", "cycles", "descriptors", "listening_sockets", "memory_bytes")
_POLITE_COLUMNS: Final = ("at_s", "requests", "failed", "p50_s", "worst_s")
_EXCUSED: Final = "excused beside these, for the tester's machine"
_MARKDOWN_FILES: Final = ("plot.svg", "process.csv", "polite.csv")

_PAGE: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --text: #222; --page: #fff; --line: #ccc; --clean: #00785a; --convicted: #b3261e; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --text: #ddd; --page: #121212; --line: #444; --clean: #4cc9a0; --convicted: #ff8a80; }}
  .picture svg {{ filter: invert(0.93) hue-rotate(180deg); }}
}}
body {{ color: var(--text); background: var(--page); font: 16px/1.5 system-ui, sans-serif;
  max-width: 60rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }}
h1 {{ font-size: 1.4rem; line-height: 1.3; }}
h2 {{ font-size: 1.15rem; margin: 2rem 0 0.5rem; }}
.verdict {{ border-left: 0.4rem solid; padding-left: 0.8rem; font-weight: 600; color: var(--convicted); }}
.verdict.clean {{ color: var(--clean); }}
.wide {{ overflow-x: auto; overflow-wrap: normal; }}
table {{ border-collapse: collapse; }}
th, td {{ border-bottom: 1px solid var(--line); padding: 0.25rem 1rem 0.25rem 0;
  text-align: left; vertical-align: top; }}
td {{ font-variant-numeric: tabular-nums; }}
.picture svg {{ display: block; width: 100%; min-width: 40rem; height: auto; }}
pre {{ max-height: 20rem; overflow: auto; border: 1px solid var(--line); padding: 0.5rem; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


class _Table(NamedTuple):
    heading: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def check_report(path: Path) -> None:
    """See to it that a report can be written later; nothing is left there.

    Raises:
        ConfigurationError: the name does not end in .md or .html, matplotlib is missing, or a file
            of the report cannot be written.
    """
    if path.suffix.lower() not in {".md", ".html"}:
        raise ConfigurationError(f"{plain(path)}: a report is a .md or an .html file")
    ensure_drawable()
    ensure_writable(path)
    if path.suffix.lower() == ".md":
        for name in _MARKDOWN_FILES:
            ensure_writable(_beside(path, name))


def write_report(document: Mapping[str, Any], path: Path) -> None:
    """Write the report of one run.

    Beside ``NAME.md`` come ``NAME-plot.svg``, and ``NAME-process.csv`` and ``NAME-polite.csv``
    where there are samples of the server's process and of polite clients. Files of these names
    are replaced; no other is touched.

    Args:
        document: as ``SoakResult.document()`` gives it.
        path: where to; .md or .html.

    Raises:
        ConfigurationError: matplotlib is missing.
        OSError: a file cannot be written.
    """
    picture = plot_run(document, "svg").decode()
    if path.suffix.lower() == ".html":
        path.write_text(_html(document, picture), encoding="utf-8")
        return
    _beside(path, "plot.svg").write_text(picture, encoding="utf-8")
    tables = _samples(document)
    for name in ("process.csv", "polite.csv"):
        if name in tables:
            _beside(path, name).write_text(tables[name], encoding="utf-8")
        else:
            _beside(path, name).unlink(missing_ok=True)  # an earlier run's
    path.write_text(_markdown(document, path, tables), encoding="utf-8")


def _beside(path: Path, name: str) -> Path:
    return path.with_name(f"{path.stem}-{name}")


# --- what it says -----------------------------------------------------------------------------


def _title(document: Mapping[str, Any]) -> str:
    return f"Soak, {document['scenario']} on {document['endpoint']}: {document['verdict']}"


def _findings(document: Mapping[str, Any]) -> list[str]:
    """One by one, if they are several; a single one is the reason."""
    findings: list[str] = document["findings"]
    return findings if len(findings) > 1 else []


def _tables(document: Mapping[str, Any]) -> Iterator[_Table]:
    if document["descriptors"]:
        yield _Table("The server's process", ("", "start", "peak", "end", "growth"), _growth(document))
    if document["polite"]:
        yield _Table("Polite clients", ("", ""), list(_polite(document["polite"])))
    if (client := document.get("client")) and client["clients"]:  # older documents have none
        yield _Table("Everbus clients, polite and in cycles", ("", ""), list(_client(client)))
    shares = [(name, f"{share['cycles']:,}", f"{share['failed']:,}") for name, share in document["by_scenario"].items()]
    if shares:
        yield _Table("Cycles", ("scenario", "made", "failed"), shares)
    if document["failed"]:
        kinds = [(_words(kind), f"{count:,}") for kind, count in document["failures"].items() if count]
        yield _Table("Failed cycles", ("why", "how many"), [*kinds, ("the first", document["first_failure"])])
    if document["new_listeners"]:
        rows = [(address,) for address in document["new_listeners"]]
        yield _Table("Listening at the end and not at the start", ("address",), rows)
    yield _Table("What was run", ("", ""), list(_run(document)))
    yield _Table("Options", ("", ""), list(_options(document["options"])))


def _growth(document: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows = []
    for name, key, unit, digits in (
        ("descriptors", "descriptors", 1, 0),
        ("listening sockets", "listeners", 1, 0),
        ("memory, MiB", "memory", _MIB, 1),
    ):
        start, peak, end = (document[key][moment] / unit for moment in ("start", "peak", "end"))
        values = (f"{value:,.{digits}f}" for value in (start, peak, end))
        rows.append((name, *values, f"{end - start:+,.{digits}f}"))
    return rows


def _polite(polite: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "clients", f"{polite['clients']:,}"
    yield "requests", f"{polite['requests']:,}"
    yield "failed", f"{polite['failed']:,}"
    if excused := polite.get("excused", 0):  # older documents have none
        yield _EXCUSED, f"{excused:,}"
    for kind, count in polite["failures"].items():
        if count:
            yield f"failed: {_words(kind)}", f"{count:,}"
    if polite["first_failure"]:
        yield "the first failure", polite["first_failure"]
    if polite["late"]:
        yield "answered late", f"{polite['late']:,}"
    for name, key in (("median", "p50_s"), ("99 of 100 within", "p99_s"), ("slowest", "worst_s")):
        if polite[key] is not None:
            yield f"answer, {name}", f"{1000 * polite[key]:,.1f} ms"
    yield "longest delay of the tester's machine", f"{1000 * polite['own_worst_s']:,.1f} ms"


def _client(client: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for words, key in (
        ("clients", "clients"),
        ("requests", "calls"),
        ("sent again", "retries"),
        ("connections", "connects"),
        ("connections that could not be made", "connect_failures"),
        ("connections that the server ended", "lost"),
    ):
        yield words, f"{client[key]:,}"
    yield "connections given up", _replaced(client["replaced"])
    for key in ("late", "unknown", "mismatched"):
        yield f"answers: {key}", f"{client[key]:,}"


def _replaced(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {_words(reason)}" for reason, count in reasons.items()) or "0"


def _run(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "server", document["endpoint"]
    yield "process", str(document["pid"] or "not looked at")
    yield "started", document["started"]
    yield "took", f"{document['duration_s']:,.1f} s{', interrupted' if document['interrupted'] else ''}"
    missed = f"; {document['rate_missed']:,} more were due and not begun" if document["rate_missed"] else ""
    yield "cycles", f"{document['cycles']:,}, {document['rate']:,.0f} a second{missed}"
    for words, key in (("turned away among these", "turned_away"), (_EXCUSED, "excused")):
        if count := document.get(key, 0):
            yield words, f"{count:,}"
    yield "everbus", document["everbus"]
    yield "machine", document["machine"]


def _options(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in options.items():
        if value is not None:
            yield _words(name.removesuffix("_s")), f"{value:g} s" if name.endswith("_s") else str(value)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _samples(document: Mapping[str, Any]) -> dict[str, str]:
    """CSV by its name; without those that have no samples."""
    polite = document["polite"] or {"samples": []}
    return {
        name: _csv(columns, rows)
        for name, columns, rows in (
            ("process.csv", _PROCESS_COLUMNS, document["samples"]),
            ("polite.csv", _POLITE_COLUMNS, polite["samples"]),
        )
        if rows
    }


def _csv(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    return text.getvalue()


# --- Markdown ---------------------------------------------------------------------------------


def _markdown(document: Mapping[str, Any], path: Path, samples: Mapping[str, str]) -> str:
    lines = [f"# {_marked(_title(document))}", "", f"**{_marked(document['reason'])}**", ""]
    lines += [f"- {_marked(finding)}" for finding in _findings(document)]
    lines += [
        "",
        f"Criterion: {_marked(document['criterion'])}",
        "",
        f"![Diagrams over time]({_link(path, 'plot.svg')})",
    ]
    for table in _tables(document):
        lines += ["", f"## {table.heading}", "", *_markdown_table(table)]
    if samples:
        links = (f"[{name}]({_link(path, name)})" for name in samples)
        lines += ["", f"Raw samples: {', '.join(links)}."]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)) + "\n"


def _markdown_table(table: _Table) -> Iterator[str]:
    yield f"| {' | '.join(table.columns)} |"
    yield f"|{'---|' * len(table.columns)}"
    for row in table.rows:
        yield f"| {' | '.join(map(_marked, row))} |"


def _link(path: Path, name: str) -> str:
    return quote(os.fsencode(_beside(path, name).name))


def _marked(text: str) -> str:
    """Text with everything escaped that Markdown would take for markup."""
    return _MARKUP.sub(r"\\\1", plain(text))


# --- HTML -------------------------------------------------------------------------------------


def _html(document: Mapping[str, Any], picture: str) -> str:
    title = _safe(_title(document))
    clean = " clean" if document["ok"] else ""
    parts = [f"<h1>{title}</h1>", f'<p class="verdict{clean}">{_safe(document["reason"])}</p>']
    if findings := _findings(document):
        parts.append(f"<ul>{''.join(f'<li>{_safe(finding)}</li>' for finding in findings)}</ul>")
    parts.append(f"<p>Criterion: {_safe(document['criterion'])}</p>")
    drawing = picture[picture.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
    parts.append(f'<div class="wide picture">{drawing}</div>')
    parts += [
        f'<h2>{_safe(table.heading)}</h2>\n<div class="wide">{_html_table(table)}</div>' for table in _tables(document)
    ]
    parts += [_html_samples(name, text) for name, text in _samples(document).items()]
    return _PAGE.format(title=title, body="\n".join(parts))


def _html_table(table: _Table) -> str:
    head = "".join(f"<th>{_safe(name)}</th>" for name in table.columns) if any(table.columns) else ""
    rows = (
        f'<tr><th scope="row">{_safe(row[0])}</th>{"".join(f"<td>{_safe(cell)}</td>" for cell in row[1:])}</tr>'
        for row in table.rows
    )
    return f"<table>{head and f'<tr>{head}</tr>'}{''.join(rows)}</table>"


def _html_samples(name: str, text: str) -> str:
    link = f"data:text/csv;base64,{b64encode(text.encode()).decode()}"
    return (
        f'<details><summary>Raw samples: {name}</summary><p><a download="{name}" href="{link}">Save as a file</a></p>'
        f"<pre>{text}</pre></details>"
    )


def _safe(text: str) -> str:
    return escape(plain(text))
