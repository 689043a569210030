"""The walk-through of docs/security.md works, as it stands."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from everbus import Server
from everbus.service.policy_file import parse_policy

PAGE: Final = Path(__file__).resolve().parent.parent / "docs" / "security.md"
PORT: Final = "8802"


def blocks(language: str) -> list[tuple[str, str]]:
    """What follows the language, and the code."""
    found: list[tuple[str, str]] = re.findall(
        rf"^```{language} ?(.*?)\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S
    )
    return found


@pytest.fixture
def environ() -> dict[str, str]:
    """Where a shell finds the command."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return str(probe.getsockname()[1])


@contextmanager
def running(command: str, folder: Path, environ: dict[str, str]) -> Iterator[None]:
    """A command that goes on until it is told to end; it is up when it has said so."""
    with subprocess.Popen(
        ["sh", "-c", f"exec {command}"], cwd=folder, env=environ, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            assert "ready on tls://" in process.stderr.readline()
            yield
        finally:
            process.terminate()
            process.communicate(timeout=20)
    assert process.returncode == 0


@pytest.mark.slow
def test_the_walk_through(tmp_path: Path, environ: dict[str, str]) -> None:
    port = free_port()
    steps = [(kind, code.replace(PORT, port)) for kind, code in blocks("sh")]
    serve = [kind for kind, _ in steps].index("serves")
    for kind, code in steps[:serve]:
        walk(kind, code, tmp_path, environ)
    with running(steps[serve][1], tmp_path, environ):
        for kind, code in steps[serve + 1 :]:
            walk(kind, code, tmp_path, environ)


def walk(kind: str, code: str, folder: Path, environ: dict[str, str]) -> None:
    """Run one block, which works, or fails, and says the words that it names."""
    command = ["sh", "-e", "-c", code]
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=60, check=False)
    said = f"{code}\n{done.stdout}{done.stderr}"
    fails, _, words = kind.partition(" ")
    assert "Traceback" not in done.stderr, said
    assert (done.returncode != 0) == (fails == "fails"), said
    assert words in done.stdout + done.stderr, said


def test_the_code_is_right(tmp_path: Path) -> None:
    (_, code), *more = blocks("python")
    assert more == []
    shown: dict[str, object] = {}
    exec(compile(code, PAGE.name, "exec"), shown)
    assert isinstance(shown["server"], Server)


def test_the_policy_is_one() -> None:
    (_, text), *more = blocks("toml")
    assert more == []
    assert len(parse_policy(text).rules) == 2
