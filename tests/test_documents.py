"""What the documents show works."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import everbus
from everbus import Server
from everbus.protocol.pdu.table import PUBLIC
from everbus.sync.unit import Requests
from everbus.testing import ScriptedPeer

ROOT = Path(__file__).resolve().parent.parent


def test_custom_function_code_of_the_contributors_guide(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    shown = ModuleType("shown")
    monkeypatch.setitem(sys.modules, "shown", shown)  # dataclasses look their module up
    exec(compile(code, "CONTRIBUTING.md", "exec"), vars(shown))
    assert isinstance(shown.server, Server)
    table = PUBLIC.extended(shown.ReadWidgetRequest)
    request = table.decode_request(b"\x41\x07")
    assert (request.fields(), request.encode()) == ({"widget": 7}, b"\x41\x07")
    response = table.decode_response(b"\x41\x00\x0e")
    assert (response.fields(), response.encode()) == ({"value": 14}, b"\x41\x00\x0e")
    assert 0x41 not in PUBLIC


def test_make_targets_of_the_contributors_guide_exist() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make (\w+)", guide, re.MULTILINE))
    assert "test" in named
    assert named <= targets


def _blocks(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / name).read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("number", range(7))
def test_the_way_from_pymodbus(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    code = _blocks("from-pymodbus.md")[number]
    with ScriptedPeer() as peer:
        exec(compile(code, "from-pymodbus.md", "exec"), {"URL": peer.url, "__name__": "shown"})
    assert "Error" not in capsys.readouterr().err


def test_the_way_from_pymodbus_names_what_exists() -> None:
    text = (ROOT / "docs" / "from-pymodbus.md").read_text(encoding="utf-8")
    assert len(_blocks("from-pymodbus.md")) == 7
    methods = set(re.findall(r"`unit\.(\w+)\(", text))
    assert methods == {name for name in vars(Requests) if not name.startswith("_")} - {"holes", "number"}
    for name in set(re.findall(r"\beverbus\.([A-Z]\w+|\w+_\w+)", text)):
        assert hasattr(everbus, name), name
