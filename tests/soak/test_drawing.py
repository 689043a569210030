"""What the pictures have in common."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl
import pytest

from everbus.errors import ConfigurationError
from everbus.soak.drawing import drawing, ensure_drawable, ensure_writable, picture_kind, plain, sheet


@pytest.mark.parametrize(("name", "kind"), [("a.png", "png"), ("b/c.SVG", "svg"), ("d.tar.svg", "svg")])
def test_the_name_says_what_picture_it_is(name: str, kind: str) -> None:
    assert picture_kind(Path(name)) == kind


@pytest.mark.parametrize("name", ["a.jpg", "svg", "a.png.gz", ".svg", ""])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"a picture is a \.png or an \.svg file"):
        picture_kind(Path(name))


def test_without_matplotlib_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for attempt in (ensure_drawable, drawing().__enter__):
        with pytest.raises(ConfigurationError, match=r"pip install 'everbus\[report\]'"):
            attempt()


def test_a_file_that_can_be_written_is_left_alone(tmp_path: Path) -> None:
    old, new, link = tmp_path / "old", tmp_path / "new", tmp_path / "link"
    old.write_text("as it was")
    link.symlink_to("elsewhere")
    for path in (old, new, link):
        ensure_writable(path)
    assert old.read_text() == "as it was"
    assert link.is_symlink()
    assert not new.exists()


@pytest.mark.parametrize(
    ("name", "reason"),
    [("", "Is a directory"), ("missing/a.svg", "No such file or directory"), ("file/a.svg", "Not a directory")],
)
def test_a_file_that_cannot_be_written(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=f"cannot be written: {reason}"):
        ensure_writable(tmp_path / name)


def test_text_from_outside_is_printable() -> None:
    assert plain("tcp://höst:5020 → 1") == "tcp://höst:5020 → 1"
    assert plain("a\x00b\x1b[1mc\ud800d\ne\u202ef") == "a\ufffdb\ufffd[1mc\ufffdd\ufffde\ufffdf"


def test_the_style_is_ours_inside_and_the_users_outside() -> None:
    with mpl.rc_context({"font.size": 33.0, "axes.facecolor": "black"}):
        with drawing():
            assert (mpl.rcParams["font.size"], mpl.rcParams["axes.facecolor"]) == (10.0, "white")
        assert (mpl.rcParams["font.size"], mpl.rcParams["axes.facecolor"]) == (33.0, "black")


def test_a_sheet_grows_with_the_text_above() -> None:
    with drawing():
        low, low_top = sheet(2.0, "title")
        high, high_top = sheet(2.0, "long title " * 20, "and more below " * 30)
    assert high_top > low_top + 1.0
    assert high.get_figheight() - low.get_figheight() == pytest.approx(high_top - low_top)
    title, below = high.texts
    assert title.get_text().count("\n") == 3
    assert title.get_window_extent().y0 >= below.get_window_extent().y1
    assert all(text.get_window_extent().x1 < high.bbox.x1 for text in high.texts)
