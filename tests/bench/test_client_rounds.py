"""Every client program against the floor, and what the command costs."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench import client_rounds
from bench.cases import CLIENT_CASES, SEQUENTIAL_ASYNC, SEQUENTIAL_SYNC, ClientCase
from bench.client_rounds import Program, _read_command, _round, measure_clients, measure_command, programs
from bench.contenders import Contender, running
from bench.programs import floor_server
from bench.rounds import LoadFailedError, Plan
from bench.slow_load import prepare


def sequential(program: Program) -> ClientCase:
    return next(case for case in (SEQUENTIAL_ASYNC, SEQUENTIAL_SYNC) if program.takes_part(case))


def test_a_program_takes_part_in_the_cases_of_its_kind() -> None:
    sync = Program("one", "python", "one_sync")
    assert [case.mode for case in CLIENT_CASES if sync.takes_part(case)] == ["sequential", "threads"]
    assert sync.command(5020, CLIENT_CASES[0], 0.5)[1:] == ["-m", "bench.clients.one_sync", "5020", "gathered", "0.5"]


def test_every_program_is_named() -> None:
    folder = Path(client_rounds.__file__).with_name("clients")
    modules = [module for _, module in client_rounds._OWN_PROGRAMS] + [peer[2] for peer in client_rounds._PEERS]
    assert sorted(path.stem for path in folder.glob("*sync.py")) == sorted(modules)


def test_a_round_is_a_rate_and_a_cost() -> None:
    says = 'print(\'{"reads": 500, "seconds": 0.25, "cpu_s": 0.02}\')'
    result = _round("one", [sys.executable, "-c", says], None)
    assert (result["per_s"], result["client_cpu_us"]) == (2000, 40)


def test_a_program_that_fails_is_named() -> None:
    with pytest.raises(LoadFailedError, match="one: no such thing"):
        _round("one", [sys.executable, "-c", "import sys; sys.exit('no such thing')"], None)


def test_without_the_floor_no_client_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_rounds, "floor_server", lambda: None)
    assert measure_clients(Plan(), print) == measure_command(Plan(), print) == {}


def test_the_command_is_measured_by_its_processor_time() -> None:
    script = "import time\nwhile time.process_time() < 0.1: pass\ntime.sleep(0.2); print('h@0 4660')"
    assert 100 <= _read_command([sys.executable, "-c", script], "4660")["cpu_ms"] < 200


@pytest.mark.parametrize("script", ["print('h@0 4661')", "print('h@0 4660'); raise SystemExit(1)"])
def test_a_command_that_does_not_read_is_an_error(script: str) -> None:
    with pytest.raises(LoadFailedError, match="-c"):
        _read_command([sys.executable, "-c", script], "4660")


@pytest.mark.slow
def test_every_program_reads_what_the_floor_holds_and_nothing_else() -> None:
    floor = floor_server()
    if floor is None:
        pytest.skip("there is no gcc")
    with running(Contender(name="floor", command=(str(floor),))) as server:
        asked = [(one, one.command(server.port, sequential(one), 0.02)) for one in programs()]

        def run(one: tuple[Program, list[str]]) -> float:
            return _round(one[0].name, one[1], None)["reads"]

        with ThreadPoolExecutor(2) as pool:
            for future in [pool.submit(run, one) for one in asked]:
                with pytest.raises(LoadFailedError, match=r"WrongAnswerError: registers 0 on: \[0, 0"):
                    future.result()
            prepare(server.port)
            assert all(reads > 0 for reads in pool.map(run, asked))
