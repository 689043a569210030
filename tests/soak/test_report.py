"""Reports, read as the Markdown and HTML that they are."""

from __future__ import annotations

import re
import sys
from base64 import b64decode
from html.parser import HTMLParser
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pytest

from everbus.errors import ConfigurationError
from everbus.soak.report import check_report, write_report
from tests.soak.documents import conviction, document, polite, unseen

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = 'x|y `z` *b* _i_ [l](u) <img src="http://example.com/x.png" onerror=alert(1)> & {brace} \x07'


class Page(HTMLParser):
    """What a browser would find."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.words.append(data.strip())

    def values(self, name: str) -> list[str]:
        """Every value of an attribute."""
        return [value for _, attributes in self.tags if (value := attributes.get(name)) is not None]


# --- Markdown ---------------------------------------------------------------------------------


def test_markdown_with_its_files(tmp_path: Path) -> None:
    path = tmp_path / "a run.md"
    check_report(path)
    assert list(tmp_path.iterdir()) == []
    write_report(conviction(), path)
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    assert lines[0] == "# Soak, churn on tcp://127.0.0.1:5020: leak"
    assert lines[2].startswith("**leak: 1000 listening sockets more than at the start")
    assert lines[4].startswith("- 1000 listening sockets more than at the start")
    assert lines[5] == "- 3 of 1000 cycles failed (3 timeout)"
    assert lines[7].startswith("Criterion: Every cycle is answered. ")
    for row in (
        "| memory, MiB | 25.0 | 26.6 | 26.6 | +1.6 |",
        "| descriptors | 8 | 2,008 | 2,008 | +2,000 |",
        "| failed: timeout | 3 |",
        "| answer, slowest | 22.0 ms |",
        "| connections given up | 3 partial, 1 silent |",
        "| answers: late | 5 |",
        "| the first | cycle 31: no answer: timed out |",
        "| churn | 1,000 | 3 |",
        "| 127.0.0.1:40002 |",
        "| process | 4711 |",
        "| duration | 10.5 s |",
        "| everbus | 1.2.3 |",
        "| machine | Linux, x86_64, 2 cores, CPython 3.11.7 |",
    ):
        assert row in lines
    linked = {unquote(name) for name in re.findall(r"\]\(([^)]+)\)", text)}
    assert linked == {file.name for file in tmp_path.iterdir()} - {path.name}
    samples = (tmp_path / "a run-process.csv").read_text(encoding="utf-8").splitlines()
    assert samples[:2] == ["at_s,cycles,descriptors,listening_sockets,memory_bytes", "0.0,0,8,1,26214400"]
    assert len(samples) == 42
    of_clients = (tmp_path / "a run-polite.csv").read_text(encoding="utf-8").splitlines()
    assert of_clients[0] == "at_s,requests,failed,p50_s,worst_s"
    assert of_clients[7] == "7.0,4,3,,"


def test_what_counts_against_nobody_is_reported(tmp_path: Path) -> None:
    write_report(document(turned_away=1500, excused=2, polite=polite() | {"excused": 3}), tmp_path / "run.md")
    lines = (tmp_path / "run.md").read_text(encoding="utf-8").splitlines()
    assert "| turned away among these | 1,500 |" in lines
    excused = "| excused beside these, for the tester's machine |"
    assert [line for line in lines if line.startswith(excused)] == [f"{excused} 3 |", f"{excused} 2 |"]


def test_a_document_of_before_there_were_excuses_and_clients(tmp_path: Path) -> None:
    older = document(polite={key: value for key, value in polite().items() if key != "excused"})
    for name in ("turned_away", "excused", "client"):
        del older[name]
    write_report(older, tmp_path / "run.md")
    text = (tmp_path / "run.md").read_text(encoding="utf-8")
    assert "| requests | 400 |" in text
    assert "excused" not in text
    assert "Everbus clients" not in text


def test_a_rerun_replaces_its_own_files_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "run.md"
    foreign = tmp_path / "polite.csv"
    foreign.write_text("not ours")
    write_report(document(polite=polite()), path)
    assert (tmp_path / "run-polite.csv").exists()
    write_report(unseen(), path)
    assert {file.name for file in tmp_path.iterdir()} == {"run.md", "run-plot.svg", "polite.csv"}
    assert foreign.read_text() == "not ours"
    text = path.read_text(encoding="utf-8")
    assert "| process | not looked at |" in text
    assert "Raw samples" not in text
    assert "\n\n\n" not in text


def test_markdown_takes_nothing_from_outside_for_markup(tmp_path: Path) -> None:
    path = tmp_path / "run.md"
    write_report(unseen(failed=1, first_failure=HOSTILE, reason="snake_case", findings=[HOSTILE, "two"]), path)
    text = path.read_text(encoding="utf-8")
    escaped = (
        r"x\|y \`z\` \*b\* \_i\_ \[l\](u) "
        r'\<img src="http://example.com/x.png" onerror=alert(1)\> \& {brace} '
        "\ufffd"
    )
    assert f"\n| the first | {escaped} |\n" in text
    assert f"\n- {escaped}\n" in text
    assert "\n**snake_case**\n" in text


# --- HTML -------------------------------------------------------------------------------------


def test_html_is_one_file_that_needs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "run.HTML"
    check_report(path)
    write_report(conviction(), path)
    assert list(tmp_path.iterdir()) == [path]
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert "<h1>Soak, churn on tcp://127.0.0.1:5020: leak</h1>" in text
    assert '<p class="verdict">leak: 1000 listening sockets' in text
    assert "churn on tcp://127.0.0.1:5020: leak" in page.words, "the picture's title"
    assert "+2,000" in page.words
    assert not page.values("src")
    assert all(value.startswith("data:text/csv;base64,") for value in page.values("href"))
    assert all(value.startswith("#") for value in page.values("xlink:href"))
    assert "url(http" not in text
    assert "@import" not in text
    saved = [b64decode(value.partition(",")[2]).decode() for value in page.values("href")]
    assert [csv.partition("\n")[0] for csv in saved] == [
        "at_s,cycles,descriptors,listening_sockets,memory_bytes",
        "at_s,requests,failed,p50_s,worst_s",
    ]
    assert [csv.strip() for csv in saved] == [word for word in page.words if word.startswith("at_s,")]


def test_html_takes_nothing_from_outside_for_markup(tmp_path: Path) -> None:
    path = tmp_path / "run.html"
    names = ("endpoint", "reason", "criterion", "first_failure")
    write_report(unseen(failed=1, findings=[HOSTILE, HOSTILE], **dict.fromkeys(names, HOSTILE)), path)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert "\x07" not in text
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert not page.values("onerror")
    assert page.words.count(HOSTILE.replace("\x07", "\ufffd")) == 6, "twice in the picture"
    assert 'class="verdict clean"' in text


# --- before the run ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["run.txt", "run", ".md", "md", "run.htm"])
def test_other_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"a report is a \.md or an \.html file"):
        check_report(tmp_path / name)


def test_a_file_of_the_report_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "run-process.csv").mkdir()
    with pytest.raises(ConfigurationError, match=r"run-process\.csv cannot be written: Is a directory"):
        check_report(tmp_path / "run.md")
    with pytest.raises(ConfigurationError, match="cannot be written: No such file or directory"):
        check_report(tmp_path / "missing" / "run.html")
    assert [file.name for file in tmp_path.iterdir()] == ["run-process.csv"]


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'everbus\[report\]'"):
        check_report(tmp_path / "run.md")
