from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools import public_api

INIT = """
from sample.shapes import Circle
__all__ = ["Circle", "__version__"]
__version__ = "1"
"""

SHAPES = """
from __future__ import annotations
from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar, Final, Generic, NamedTuple, Protocol, TypeVar

__all__ = ["Area", "Box", "Circle", "Colour", "LIMIT", "Pair", "Shape", "Size", "draw", "erase"]

LIMIT: Final = 3
T = TypeVar("T")
Size = int | list[str]

class Colour(Enum):
    RED = 1

class Area(Protocol):
    def area(self) -> float: ...

class Shape(Generic[T]):
    __slots__ = ("_hidden", "name")
    sides: ClassVar[int] = 0
    kind = Colour
    def __init__(self, name: str, *, colour: Colour = Colour.RED) -> None:
        self.name = name
    def __len__(self) -> int:
        return 0
    def __repr__(self) -> str:
        return "Shape"
    @property
    def title(self) -> str:
        return ""
    @title.setter
    def title(self, value: str) -> None: ...
    @classmethod
    def of(cls, value: T) -> Shape[T]: ...
    @staticmethod
    def count() -> int: ...
    def _private(self) -> None: ...

@dataclass(frozen=True, slots=True)
class Circle(Shape[int]):
    radius_m: float
    origin: object = object()
    tags: list[str] = field(default_factory=list)

class Pair(NamedTuple):
    left: int
    right: int = 2

class Box:
    def __init__(self, a: int, b: int, c: int, d: int, e: int) -> None: ...

async def draw(shape: Shape[int], /, *layers: int, scale: float = 1.0, **more: str) -> None: ...

def erase(what, /): ...
"""

EXPECTED = """\
sample
    Circle = sample.shapes.Circle
    __version__: str

sample.drawer.pens
    INK: str

sample.shapes
    class Area(Protocol)
        def area() -> float
    class Box
        (
            a: int,
            b: int,
            c: int,
            d: int,
            e: int,
        )
    class Circle(Shape[int])
        (radius_m: float, origin: object = <object>, tags: list[str] = <factory>)
        def __len__() -> int
        staticmethod def count() -> int
        kind = Colour
        name
        classmethod def of(value: T) -> Shape[T]
        origin: object
        radius_m: float
        sides: ClassVar[int]
        tags: list[str]
        title: str (property, settable)
    class Colour(Enum)
        RED = 1
    LIMIT: int
    class Pair(NamedTuple)
        (left: int, right: int = 2)
        left: int
        right: int
    class Shape(Generic[T])
        (name: str, *, colour: Colour = Colour.RED)
        def __len__() -> int
        staticmethod def count() -> int
        kind = Colour
        name
        classmethod def of(value: T) -> Shape[T]
        sides: ClassVar[int]
        title: str (property, settable)
    Size = int | list[str]
    async def draw(shape: Shape[int], /, *layers: int, scale: float = 1.0, **more: str) -> None
    def erase(what: ?, /) -> ?

sample.tools
    INK: str
"""


@pytest.fixture
def sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a package ``sample`` that can be imported."""
    package = tmp_path / "sample"
    for name, text in {
        "__init__.py": INIT,
        "shapes.py": SHAPES,
        "_private.py": "",
        "drawer/__init__.py": "",
        "drawer/pens.py": "__all__ = ['INK']\nINK = 'blue'",
        "tools/__init__.py": "from sample.drawer.pens import INK\n__all__ = ['INK']",
        "cli/__init__.py": "",
        "cli/main.py": "",
    }.items():
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield package
    for name in [name for name in sys.modules if name.split(".")[0] == "sample"]:
        del sys.modules[name]


@pytest.mark.usefixtures("sample")
def test_describes_every_kind_of_name() -> None:
    assert public_api.describe("sample") == EXPECTED


def test_module_without_all(sample: Path) -> None:
    (sample / "extra.py").write_text("", encoding="utf-8")
    with pytest.raises(AttributeError, match=r"sample\.extra has no __all__"):
        public_api.describe("sample")


@pytest.mark.usefixtures("sample")
def test_print(capsys: pytest.CaptureFixture[str]) -> None:
    assert public_api.main([], package="sample") == 0
    assert capsys.readouterr().out == EXPECTED


@pytest.mark.usefixtures("sample")
def test_check_fails_before_it_is_written_and_passes_after(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    snapshot = tmp_path / "api.txt"
    assert public_api.main(["--check"], snapshot, "sample") == 1
    assert "+    class Area(Protocol)" in capsys.readouterr().out
    assert public_api.main(["--write"], snapshot, "sample") == 0
    assert public_api.main(["--check"], snapshot, "sample") == 0


@pytest.mark.usefixtures("sample")
def test_check_shows_what_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    snapshot = tmp_path / "api.txt"
    snapshot.write_text(EXPECTED.replace("scale: float = 1.0", "scale: float = 2.0"), encoding="utf-8")
    assert public_api.main(["--check"], snapshot, "sample") == 1
    out = capsys.readouterr().out
    assert "-    async def draw(shape: Shape[int], /, *layers: int, scale: float = 2.0, **more: str) -> None" in out
    assert "+    async def draw(shape: Shape[int], /, *layers: int, scale: float = 1.0, **more: str) -> None" in out


def test_wrong_call(capsys: pytest.CaptureFixture[str]) -> None:
    assert public_api.main(["--renew"]) == 2
    assert "usage:" in capsys.readouterr().err
