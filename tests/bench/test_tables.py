from __future__ import annotations

from bench import tables
from bench.reach import PROMISES
from tests.bench.documents import made_up
from tools.environments import PYMODBUS


def test_everything_has_ratios_before_rates() -> None:
    text = tables.everything(made_up())
    assert text.index("times the rate of") < text.index("requests a second |")
    assert "| 50 connections, 1 in flight, read 10 | 60,000 | 100,000 | 15,000 | 30,000 |" in text
    assert "| 50 connections, 1 in flight, read 10 | 0.60 | 4.00 | 2.00 |" in text
    assert "Not here: libmodbus: it is not there." in text
    assert "never answered: none." in text
    assert "| not reached |" in text


def test_each_promise_has_its_line() -> None:
    lines = tables.promises(made_up()).splitlines()
    assert len(lines) == 2 + len(PROMISES)
    assert lines[2].endswith("| 0.60 | at least 0.5, aim 0.6 | aim reached |")


def test_requests_that_were_lost_are_named() -> None:
    document = made_up()
    document["cases"]["50x16-read-10"][PYMODBUS]["median"]["lost"] = 750.0
    assert "never answered: 50 connections, 16 in flight, read 10: 750 by pymodbus 3.16.1." in tables.everything(
        document
    )


def test_the_machine_and_the_versions_are_named() -> None:
    said = tables.about(made_up())
    for part in ("2026-01-02", "m, 2 cores", "everbus (Python 3.11.7)", "everbus 1.0", "tmodbus 1.1.0 (Python 3.12.1)"):
        assert part in said


def test_clients_have_ratios_rates_latencies_and_costs() -> None:
    text = tables.clients(made_up())
    gathered, sequential = "async, 1 connection, 3000 reads gathered", "sync, 1 connection, one read after another"
    assert (
        "| clients: reads of 10 registers a second | everbus | pymodbus 3.16.1 | tmodbus 1.1.0 | raw socket |" in text
    )
    assert f"| {gathered} | 6.00 | 4.00 | - |" in text
    assert f"| {sequential} | 1.12 | - | 0.90 |" in text
    assert f"| {gathered} | 60,000 | 10,000 | 15,000 | - |" in text
    assert f"| {gathered} | - |" not in text
    assert f"| {sequential} | 50 / 90 | 50 / 90 | - | 50 / 90 |" in text
    assert f"| {sequential} | 40.2 | 40.2 | - | 40.2 |" in text


def test_clients_that_were_not_measured_are_not_shown() -> None:
    document = made_up()
    document["clients"] = {}
    assert "everbus | pymodbus" not in tables.clients(document)
