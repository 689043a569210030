from __future__ import annotations

import os
import threading
import time

import pytest

from everbus.client.pool_core import PoolOptions
from everbus.errors import (
    ConfigurationError,
    ConnectError,
    ExceptionResponseError,
    ModbusError,
    ModbusTimeoutError,
    PoolExhaustedError,
)
from everbus.maps.notation import parse_point
from everbus.protocol.codes import ExceptionCode
from everbus.service.bank import Bank
from everbus.sync.pool import Pool
from everbus.testing import ScriptedPeer, scripted
from tests.rogue import ADDRESS, VALUES, bank, value


def in_threads(jobs: int, work: object) -> list[object]:
    """What each of so many threads returned or raised."""
    ends: list[object] = [None] * jobs

    def run(number: int) -> None:
        try:
            ends[number] = work(number)  # type: ignore[operator]
        except ModbusError as error:
            ends[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10.0)
    return ends


def test_many_threads_and_units_share_one_connection() -> None:
    with ScriptedPeer(device=bank()) as peer, Pool() as pool:
        ends = in_threads(16, lambda at: pool.unit(peer.url, at + 1).read_holding_registers(at, 1))
        assert ends == [[value(at)] for at in range(16)]
        assert peer.connections == 1
        assert repr(pool.unit(peer.url)) == f"<PooledUnit 1 of {peer.url}>"
        found = pool.statistics()
        assert (found.granted, found.idle, found.opened) == (16, 1, 1)


def test_a_connection_whose_answer_is_missing_is_not_used_again() -> None:
    with ScriptedPeer([scripted.late(0.1)], device=bank()) as peer, Pool(timeout_s=0.05, retries=0) as pool:
        with pytest.raises(ModbusTimeoutError):
            pool.unit(peer.url).read_holding_registers(0, 1)
        assert pool.unit(peer.url).read_holding_registers(ADDRESS, 2) == VALUES
        assert peer.connections == 2
        assert pool.statistics().discarded_unclean == 1


def test_who_waits_too_long_is_told() -> None:
    with (
        ScriptedPeer(scripted.silent) as peer,
        Pool(PoolOptions(max_links_per_endpoint=2), wait_s=0.05, timeout_s=0.3, retries=0) as pool,
    ):
        ends = in_threads(8, lambda _: pool.unit(peer.url).read_coils(0, 1))
        kinds = [type(end) for end in ends]
        assert kinds.count(ModbusTimeoutError) == 2
        assert kinds.count(PoolExhaustedError) == 6
        found = pool.statistics()
        assert (found.links, found.waiting, found.timed_out) == (0, 0, 6)


def test_a_connection_that_ended_while_idle_is_replaced_without_an_error() -> None:
    with ScriptedPeer(device=bank()) as peer, Pool(PoolOptions(check_after_s=0.0)) as pool:
        unit = pool.unit(peer.url)
        unit.write_register(1, 2)
        unit.write_register(1, 3)
        assert peer.connections == 1
        peer.drop_connections()
        time.sleep(0.05)
        unit.write_register(1, 4)
        assert peer.connections == 2
        assert pool.statistics().closed_by_reason == {"stale": 1}


def test_overdue_connections_are_closed_when_somebody_comes() -> None:
    with ScriptedPeer() as one, ScriptedPeer() as two, Pool(PoolOptions(idle_timeout_s=0.02)) as pool:
        pool.unit(one.url).read_coils(0, 1)
        time.sleep(0.04)
        pool.unit(two.url).read_coils(0, 1)
        assert pool.statistics().closed_by_reason == {"idle": 1}


def test_a_caller_that_fails_gives_its_connection_back() -> None:
    with ScriptedPeer(device=bank()) as peer, Pool() as pool:
        with pytest.raises(ZeroDivisionError), pool.client(peer.url) as client:  # noqa: PT012  the pool is what is tested
            client.unit(1).read_coils(0, 1)
            1 // 0  # noqa: B018  a mistake of the caller's
        assert pool.unit(peer.url).read_holding_registers(ADDRESS, 2) == VALUES
        assert pool.statistics().lent == 0


def test_a_device_that_is_not_there() -> None:
    with ScriptedPeer() as peer, Pool() as pool:
        peer.stop_listening()
        with pytest.raises(ConnectError, match="nobody listens"):
            pool.unit(peer.url).read_coils(0, 1)
        assert pool.statistics().links == 0


def test_a_closed_pool_lends_nothing() -> None:
    with ScriptedPeer(scripted.late(0.1)) as peer:
        pool = Pool()
        closer = threading.Timer(0.05, pool.close)
        closer.start()
        ends = in_threads(3, lambda _: pool.unit(peer.url).read_coils(0, 1))
        closer.join()
        assert sum(isinstance(end, PoolExhaustedError) for end in ends) == 2
        pool.close()
        with pytest.raises(PoolExhaustedError, match="the pool is closed"):
            pool.unit(peer.url).read_coils(0, 1)


def test_a_child_process_begins_with_an_empty_pool() -> None:
    with ScriptedPeer(device=bank()) as peer, Pool() as pool:
        assert pool.unit(peer.url).read_holding_registers(ADDRESS, 2) == VALUES
        child = os.fork()
        if child == 0:
            try:
                right = pool.unit(peer.url).read_holding_registers(ADDRESS, 2) == VALUES
                pool.close()
                os._exit(0 if right else 1)
            except BaseException:  # noqa: BLE001  a child of a test must not run the test's end
                os._exit(2)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert pool.unit(peer.url).read_holding_registers(ADDRESS, 2) == VALUES
        assert peer.connections == 2


def test_what_cannot_work_is_refused_at_once() -> None:
    with pytest.raises(ConfigurationError, match="timeout_s"):
        Pool(timeout_s=0.0)


def test_points_are_read_through_a_pool_and_holes_are_remembered() -> None:
    with ScriptedPeer(device=Bank(holding_registers=[(0, 1), (3, 1)])) as peer, Pool() as pool:
        points = [parse_point("h@0"), parse_point("h@3")]
        for reads in (3, 2):  # the second time nobody tries to read over the hole
            before = len(peer.requests)
            assert [reading.value for reading in pool.unit(peer.url).read_points(points)] == [0, 0]
            assert len(peer.requests) - before == reads
        pool.unit(peer.url).write(points[0], 9)
        assert pool.unit(peer.url).read(points[0]) == 9


def test_an_exception_of_the_device_costs_no_connection() -> None:
    with ScriptedPeer(scripted.exception(ExceptionCode.ILLEGAL_DATA_ADDRESS)) as peer:
        with Pool() as pool:
            for _ in range(3):
                with pytest.raises(ExceptionResponseError):
                    pool.unit(peer.url).read_coils(0, 1)
        assert peer.connections == 1
