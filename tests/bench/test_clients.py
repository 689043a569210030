"""What the client programs have in common."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from types import SimpleNamespace

import pytest

from bench.cases import CLIENT_CASES, ClientCase
from bench.clients import harness
from bench.slow_load import values


class Stack:
    """A client that knows the registers; the ``wrong``-th read is another's."""

    def __init__(self, wrong: int = 0) -> None:
        self.wrong = wrong
        self.reads = 0
        self.connections = 0

    def read(self, at: int) -> Sequence[int]:
        self.reads += 1
        data = values(at + (self.reads == self.wrong), harness.REGISTERS)
        return [int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2)]

    async def read_async(self, at: int) -> Sequence[int]:
        return self.read(at)

    @contextmanager
    def connect(self, port: int) -> Iterator[harness.Read]:
        assert port == 5020
        self.connections += 1
        yield self.read

    @asynccontextmanager
    async def connect_async(self, port: int) -> AsyncIterator[harness.AsyncRead]:
        with self.connect(port):
            yield self.read_async

    def run(self, kind: str) -> None:
        if kind == "async":
            harness.run_async(self.connect_async)
        else:
            harness.run_sync(self.connect)


@pytest.mark.parametrize("case", CLIENT_CASES, ids=lambda case: case.name)
def test_reads_are_counted(
    case: ClientCase, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["program", "5020", case.mode, "0.01"])
    stack = Stack()
    stack.run(case.kind)
    result = json.loads(capsys.readouterr().out)
    assert stack.connections == {"many": 50, "threads": 8}.get(case.mode, 1)
    assert 0 < result["reads"] < stack.reads  # the warming up is not counted
    assert result["seconds"] >= 0.01
    assert result["cpu_s"] > 0
    if case.mode == "gathered":
        assert result["reads"] % 3000 == 0
    else:
        assert 0 < result["p50_us"] <= result["p99_us"] < 1e6


@pytest.mark.parametrize("case", CLIENT_CASES, ids=lambda case: case.name)
def test_one_wrong_value_ends_the_program(case: ClientCase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["program", "5020", case.mode, "0.01"])
    with pytest.raises(harness.WrongAnswerError, match="instead of"):
        Stack(wrong=120).run(case.kind)


def test_latencies_are_of_reads(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = iter(range(1000))
    clock = SimpleNamespace(perf_counter=lambda: next(now) * 0.001, process_time=lambda: 0.0)
    monkeypatch.setattr(harness, "time", clock)
    monkeypatch.setattr(sys, "argv", ["program", "5020", "sequential", "0.05"])
    Stack().run("sync")
    result = json.loads(capsys.readouterr().out)
    assert result["p50_us"] == result["p99_us"] == 1000
