"""The committed corpus is what its tool makes of the vectors, and the tool says what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import corpus

A, B = corpus.name_of("vector", b"a"), corpus.name_of("vector", b"b")
WANTED = {A: b"a", B: b"b"}


def put(folder: Path, **files: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def test_the_committed_corpus_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert corpus.main(["--check"]) == 0, capsys.readouterr().out


def test_every_harness_has_a_small_corpus_of_vectors() -> None:
    names = corpus.harnesses()
    assert len(names) >= 11
    for name in names:
        assert 10 < len(corpus.grown(name)) <= corpus.MOST_VECTORS, name


def test_what_is_written_is_right_and_what_is_stale_goes(tmp_path: Path) -> None:
    folder = put(tmp_path / "mbap", **{"vector-0": b"old", "regression-a-1": b"kept"})
    assert set(corpus.problems(folder, WANTED)) == {
        f"missing: mbap/{A}",
        f"missing: mbap/{B}",
        "stale: mbap/vector-0",
    }
    corpus.write(folder, WANTED)
    assert list(corpus.problems(folder, WANTED)) == []
    assert {file.name for file in folder.iterdir()} == {A, B, "regression-a-1"}


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        (A, b"c", "stale"),
        ("found-0", b"c", "misnamed"),
        ("crash-12", b"c", "stray"),
        ("regression-A_b", b"c", "stray"),
        ("regression-long", bytes(300), "large"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, name: str, data: bytes, problem: str) -> None:
    folder = put(tmp_path / "mbap", **WANTED)
    put(folder, **{name: data})
    (found,) = corpus.problems(folder, WANTED)
    assert found.startswith(f"{problem}: mbap/{name}")


def test_what_was_found_is_taken_in_once_and_bounded(tmp_path: Path) -> None:
    folder = put(tmp_path / "mbap", **WANTED)
    new = put(tmp_path / "new", x=b"a", y=b"c", z=b"c")
    corpus.add(folder, sorted(new.iterdir()))
    assert {file.name for file in folder.iterdir()} == {A, B, corpus.name_of("found", b"c")}
    assert list(corpus.problems(folder, WANTED)) == []
    many = put(tmp_path / "many", **{f"n{number}": b"%d" % number for number in range(corpus.MOST_FOUND)})
    corpus.add(folder, sorted(many.iterdir()))
    (found,) = corpus.problems(folder, WANTED)
    assert found.startswith(f"many: mbap has {corpus.MOST_FOUND + 1} found inputs")


def test_many_inputs_are_thinned_out_evenly() -> None:
    inputs = [b"%d" % number for number in range(10)]
    assert corpus.thinned(inputs, 20) == inputs
    assert corpus.thinned(inputs, 4) == [b"0", b"2", b"5", b"7"]


def test_the_command_writes_adds_and_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path / "tests" / "fuzz" / "harnesses", **{"mbap.py": b""})
    put(tmp_path / "tests" / "data", **{"vectors.json": (corpus.ROOT / "tests/data/vectors.json").read_bytes()})
    corpora = put(tmp_path / "tests" / "fuzz" / "corpus")
    assert corpus.main(["--check"], tmp_path) == 1
    assert "missing: mbap/vector-" in capsys.readouterr().out
    assert corpus.main(["--write"], tmp_path) == 0
    new = put(tmp_path / "new", one=b"new")
    assert corpus.main(["--add", "mbap", str(new / "one")], tmp_path) == 0
    assert (corpora / "mbap" / corpus.name_of("found", b"new")).read_bytes() == b"new"
    put(corpora / "nobody")
    assert corpus.main(["--check"], tmp_path) == 1
    assert capsys.readouterr().out == "stray: nobody\n"
    with pytest.raises(SystemExit):
        corpus.main(["--add", "nobody", "x"], tmp_path)
