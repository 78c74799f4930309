"""Kill one of two instances under a thousand clients: all are synced and saved again soon, and no document is loaded twice.

Half of the courses have their clients spread over both instances, as a plain proxy does; the others have theirs on one, as a proxy
that goes by the course does, so that the instance that stays has to load what the other held.
"""

import argparse
import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from pycrdt import Doc, Map, Text

from tests.cluster import Course, metric
from tests.conformance.node_client import NodeDriver, YjsClient
from tests.faults.crowd import Crowd, gather_crowd, until
from tests.faults.verdict import Verdict, check_limit, judge
from tests.faults.world import World, open_world, run_in_folder
from tests.proxy import RoundRobinProxy, TcpProxy
from tests.server_process import HOST, ServerProcess

LIMIT_SECONDS: Final = 10.0
SETTLE_SECONDS: Final = 60.0
PER_COURSE: Final = 5
NODES: Final = 50
STOCK_VERSIONS: Final = ("1", "2", "3")
SETTINGS: Final = {"room_idle_seconds": "600"}  # no room goes, so that every load is of a document that was not there
_EDIT: Final = "(client, doc, Y, {key}) => { doc.getMap('edits').set(key, 'stock') }"


@dataclass(frozen=True, slots=True)
class StormReport:
    """What came after the kill. lost_line: clients that were on the killed instance. synced, saved, stock_saved: seconds until the
    last client was. loads, rooms: documents loaded by the instance that stayed, and those that it holds.
    """

    clients: int
    stock: int
    lost_line: int
    synced: float
    saved: float
    stock_saved: float
    loads: int
    rooms: int
    verdict: Verdict


async def storm(folder: Path, *, courses: int, stock: int, seed: int) -> StormReport:
    """Kill the first instance while everybody has just edited. stock: clients that are stock Yjs, beside the light ones."""
    randomness = random.Random(seed)
    async with (
        open_world(folder, instances=2, courses=courses, settings=SETTINGS) as world,
        _proxies(world) as ports,
        _stock_clients(world.courses[:stock], ports[0]) as stocks,
    ):

        def address(course: Course, number: int) -> Callable[[], str]:
            return partial(course.url, ports[number // PER_COURSE % len(ports)])

        crowd = gather_crowd(world.courses, PER_COURSE, address, randomness)
        async with crowd.connected(SETTLE_SECONDS):
            await _fill(crowd, randomness)
            return await _kill(world, crowd, stocks)


async def _kill(world: World, crowd: Crowd, stocks: Sequence[YjsClient]) -> StormReport:
    killed, stays = world.cluster.instances
    killed_at = time.monotonic()
    await asyncio.to_thread(killed.kill)
    stock_edits = asyncio.gather(*(_edit_and_save(client, killed_at) for client in stocks))
    for client in crowd.clients:
        client.edit()
    await until(
        lambda: any(client.spells or client.away_since for client in crowd.clients), SETTLE_SECONDS, "lines are lost"
    )
    await crowd.synced(SETTLE_SECONDS)
    synced = time.monotonic() - killed_at
    await until(lambda: not crowd.in_flight, SETTLE_SECONDS, "everything is acknowledged")
    saved = time.monotonic() - killed_at
    lost_line = sum(bool(client.spells) for client in crowd.clients)
    stock_saved = max(await stock_edits, default=0.0)
    loads, rooms = await asyncio.to_thread(_loads, stays)
    late = check_limit("synced and saved again", [saved, stock_saved], LIMIT_SECONDS)
    faults = [] if loads == rooms else [f"{loads} loads for {rooms} documents"]
    verdict = await judge(crowd, world.cluster.database_url, SETTLE_SECONDS, faults=faults, late=late)
    for stock, clients in zip(stocks, crowd.groups.values(), strict=False):
        found = {int(author): clock for author, clock in (await stock.report())["stateVector"].items()}
        if found != clients[0].state():
            verdict.faults.append(f"a stock client differs from {clients[0].name}")
    return StormReport(len(crowd.clients), len(stocks), lost_line, synced, saved, stock_saved, loads, rooms, verdict)


@contextlib.asynccontextmanager
async def _proxies(world: World) -> AsyncIterator[Sequence[int]]:
    """Yield the ports that courses go through in turn: two of them by the course, so to one instance while it lives."""
    one, two = world.cluster.ports
    async with (
        RoundRobinProxy((one, two)) as spreading,
        TcpProxy(lambda: (one, two)) as first,
        TcpProxy(lambda: (two, one)) as second,
    ):
        yield spreading.port, first.port, spreading.port, second.port


@contextlib.asynccontextmanager
async def _stock_clients(courses: Sequence[Course], port: int) -> AsyncIterator[Sequence[YjsClient]]:
    """Yield a stock client on each of the courses, of the released generations in turn."""
    driver = NodeDriver()
    await driver.start()
    try:
        clients = []
        for number, course in enumerate(courses):
            options = {
                "version": STOCK_VERSIONS[number % len(STOCK_VERSIONS)],
                "url": f"ws://{HOST}:{port}/sync",
                "room": course.id,
                "params": {"token": course.token, "ack": "seq"},
                "maxBackoffTime": 2500,
            }
            clients.append(await driver.open(f"stock{number}", options))
        for client in clients:
            await client.synced()
        yield clients
    finally:
        await driver.stop()


async def _edit_and_save(client: YjsClient, since: float) -> float:
    """Have a stock client edit; return the seconds from `since` to its receipt."""
    await client.run(_EDIT, key=f"{client.name}.1")
    await client.saved(SETTLE_SECONDS)
    return time.monotonic() - since


async def _fill(crowd: Crowd, randomness: random.Random) -> None:
    """Give every course its nodes, and wait until all have them."""
    for clients in crowd.groups.values():
        clients[0].convey(_nodes(randomness))
        clients[0].edit()
    await until(lambda: all(client.is_saved for client in crowd.clients), SETTLE_SECONDS, "the courses are filled")
    await crowd.settled(SETTLE_SECONDS)


def _nodes(randomness: random.Random) -> bytes:
    """Return an update that makes the nodes of a course."""
    document: Doc[Map[Map[object]]] = Doc()
    nodes = document.get("nodes", type=Map[Map[object]])
    with document.transaction():
        for number in range(NODES):
            title, description = f"Node {number}", "lorem ipsum " * randomness.randint(5, 40)
            nodes[f"{randomness.getrandbits(60):015x}"] = Map(
                {"kind": "lesson", "life": 1.0, "parent": "", "title": Text(title), "desc": Text(description)}
            )
    return document.get_update()


def _loads(instance: ServerProcess) -> tuple[int, int]:
    """Return how many loads an instance has begun, and how many rooms it holds."""
    return int(metric(instance, "rooms_loaded_total")), int(metric(instance, 'rooms{state="live"}'))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this run's options."""
    parser.add_argument("--courses", type=int, default=200, help="courses of 50 nodes, each with five light clients")
    parser.add_argument(
        "--stock", type=int, default=12, help="stock Yjs clients beside them, each on one of the courses"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run and print the figures."""
    report = run_in_folder(
        lambda folder: storm(folder, courses=arguments.courses, stock=arguments.stock, seed=arguments.seed)
    )
    if report is None:
        return 1
    print(
        f"clients                      {report.clients} light, {report.stock} stock; {report.lost_line} lost their line"
    )
    print(f"seconds to synced            {report.synced:.2f}")
    print(f"seconds to saved             {report.saved:.2f}, stock clients {report.stock_saved:.2f}")
    print(f"loads by the one that stayed {report.loads}, of {report.rooms} documents")
    report.verdict.print()
    return 0 if report.verdict.holds else 1
