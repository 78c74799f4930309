"""Several instances on one Postgres and one Redis, in short; `make faults` has the long runs."""

from pathlib import Path

import pytest

from tests import postgres
from tests.faults.bus import harm_bus
from tests.faults.moves import move_about
from tests.faults.outages import suffer_outages
from tests.faults.restores import suffer_restores
from tests.faults.rolling import roll
from tests.faults.storm import storm

pytestmark = pytest.mark.skipif(postgres.MISSING is not None, reason=str(postgres.MISSING))


async def test_R6_stock_clients_that_move_between_instances_end_equal(tmp_path: Path) -> None:
    report = await move_about(tmp_path, rounds=1, steps=120, seed=7)

    assert report.faults == []
    assert report.sockets > 9


async def test_R6_nothing_is_lost_with_what_redis_loses(tmp_path: Path) -> None:
    report = await harm_bus(tmp_path, events=4, seconds=1.5, courses=2, seed=7)

    assert report.verdict.lost == ()
    assert report.verdict.faults == []
    assert report.lost > 0


async def test_R1_receipts_are_true_when_postgres_and_an_instance_are_killed(tmp_path: Path) -> None:
    report = await suffer_outages(tmp_path, outages=1, seconds=2, instances=2, courses=2, seed=7)

    assert report.verdict.lost == ()
    assert report.verdict.faults == []
    assert report.outages[0].delays


async def test_R9_what_instances_and_clients_hold_returns_to_a_restored_log(tmp_path: Path) -> None:
    report = await suffer_restores(tmp_path, restores=1, writing=1.5, instances=2, courses=1, seed=7)

    assert report.verdict.lost == ()
    assert report.verdict.faults == []


async def test_storm_after_a_kill_loads_no_document_twice(tmp_path: Path) -> None:
    report = await storm(tmp_path, courses=20, stock=3, seed=7)

    assert report.verdict.lost == ()
    assert report.verdict.faults == []
    assert report.lost_line > 0


async def test_R1_instances_restart_in_turn_without_loss(tmp_path: Path) -> None:
    report = await roll(tmp_path, instances=2, clients=30, rounds=1, drain=1, seed=7)

    assert report.verdict.lost == ()
    assert report.verdict.faults == []
