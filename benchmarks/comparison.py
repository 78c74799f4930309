"""What is compared: each load, the servers that meet it, and what its figures should come to. One entry a row."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from benchmarks.aims import FLOOR, OURS, Aim, Compared
from benchmarks.figures import Figures
from benchmarks.floor import floor_world
from benchmarks.knobs import Knobs, Steady
from benchmarks.peers import PEERS, world_of
from benchmarks.servers import World, embedded, scaled
from benchmarks.workloads.awareness import awareness, label
from benchmarks.workloads.history import history
from benchmarks.workloads.idle import idle_memory
from benchmarks.workloads.instances import across, two_instances
from benchmarks.workloads.joins import join_storm, joins, joins_of_evicted
from benchmarks.workloads.receipts import commits_postgres, commits_sqlite, receipts
from benchmarks.workloads.rejoin import rejoin
from benchmarks.workloads.rooms import room_memory
from benchmarks.workloads.saturation import saturate
from benchmarks.workloads.steady import steady

_AIMED_CONNECTIONS: Final = 1_000
_CPU: Final = Compared("server CPU us a delivery")


@dataclass(frozen=True, slots=True)
class Row:
    """One load, and its figures that are compared.

    name: of its runs in a file; worlds: who meets it, ours first.
    """

    name: str
    label: str
    load: Callable[[World], Figures]
    compared: Sequence[Compared]
    worlds: Mapping[str, World]


def rows(knobs: Knobs) -> Sequence[Row]:
    """Return what is compared, in order."""
    return [
        *_fan_out(knobs),
        *_saturation(knobs),
        *_joins(knobs),
        *_memory(knobs),
        *_histories(knobs),
        *_presence(knobs),
        *_receipts(knobs),
        *_across(knobs),
    ]


def worlds(*, floor: bool = False) -> Mapping[str, World]:
    """Return ours and the peers, and the C floor where it is wanted."""
    last: Mapping[str, World] = {FLOOR: floor_world} if floor else {}
    return {OURS: embedded, **{peer.name: world_of(peer) for peer in PEERS}, **last}


def _fan_out(knobs: Knobs) -> Sequence[Row]:
    aims = {20: (1.5, 3.0), 100: (1.3, 2.5)}  # of clients: median, tail
    return [
        Row(
            f"fan-out-{clients}",
            f"1 room × {clients} clients, 100 edits/s",
            partial(steady, Steady(1, clients, 100), knobs),
            (
                Compared("delivery p50 ms", _beside_peers(aims[clients][0]) if clients in aims else ()),
                Compared("delivery p99 ms", _beside_peers(aims[clients][1]) if clients in aims else ()),
                _CPU,
            ),
            worlds(floor=True),
        )
        for clients in knobs.fan_out_clients
    ]


def _saturation(knobs: Knobs) -> Sequence[Row]:
    most = Compared("delivered/s", more_is_better=True)
    rooms, clients, writers = knobs.saturated_rooms, knobs.saturated_clients, knobs.saturated_writers
    lone = replace(knobs, saturated_writers=1)
    one_room = replace(knobs, saturated_rooms=1, saturated_clients=100, saturated_writers=10)
    return [
        Row(
            "saturation-8",
            f"{rooms} rooms × {clients}, {writers} writers with 8 edits on their way",
            partial(saturate, knobs, 8),
            (replace(most, aims=_beside_peers(3.5)), _CPU),
            worlds(floor=True),
        ),
        Row(
            "saturation-1",
            f"{rooms} rooms × {clients}, 1 writer with 1 edit on its way",
            partial(saturate, lone, 1),
            (replace(most, aims=(*_beside_peers(1.3), Aim(FLOOR, 0.6))), _CPU),
            worlds(floor=True),
        ),
        Row(
            "one-room",
            "1 room × 100, 10 writers with 4 edits on their way",
            partial(saturate, one_room, 4),
            (replace(most, aims=_beside_peers(4.0)), _CPU),
            worlds(floor=True),
        ),
        *(
            Row(
                f"rooms-{count}",
                f"{count} rooms × {clients}, {writers} writers with 8 edits on their way",
                partial(saturate, replace(knobs, saturated_rooms=count), 8),
                (most, _CPU),
                worlds(),
            )
            for count in knobs.many_rooms
        ),
    ]


def _joins(knobs: Knobs) -> Sequence[Row]:
    return [
        Row(
            "join-open",
            f"join of a course of {knobs.graph_nodes:,} nodes, open, nothing cached",
            partial(joins, knobs),
            (
                Compared("open, uncached: p50 ms", _beside_peers(1.5)),
                Compared("open, uncached: server CPU ms"),
                Compared("open, cached: p50 ms"),
            ),
            worlds(),
        ),
        Row(
            "join-evicted",
            f"join of a course of {knobs.graph_nodes:,} nodes that was let go (peers keep theirs open)",
            partial(joins_of_evicted, knobs),
            (Compared("evicted: p50 ms", _beside_peers(1.0)), Compared("evicted: server CPU ms")),
            worlds(),
        ),
        Row(
            "join-storm",
            f"{knobs.joiners} joins at once",
            partial(join_storm, knobs),
            (
                Compared("at once: all ms", _beside_peers(3.0)),
                Compared("at once: server CPU ms", _beside_peers(6.0)),
            ),
            worlds(),
        ),
        Row(
            "rejoin",
            f"{knobs.rejoiners} come back at once, each with another state vector",
            partial(rejoin, knobs),
            (
                Compared("at once: all observed ms", _beside_peers(5.0)),
                Compared("at once: synced server CPU ms"),
                Compared("alone: observed p50 ms"),
            ),
            worlds(),
        ),
    ]


def _memory(knobs: Knobs) -> Sequence[Row]:
    nodes, courses = knobs.compared_courses
    idle = Compared("KiB a connection")
    started = Compared("MiB of the process before")
    return [
        *(
            Row(
                f"idle-{count}",
                f"{count:,} idle connections, {knobs.idle_per_room} in a room",
                partial(idle_memory, knobs, count),
                (replace(idle, aims=_beside_peers(1.3)) if count == _AIMED_CONNECTIONS else idle, started),
                worlds(),
            )
            for count in knobs.compared_connections
        ),
        Row(
            "open-rooms",
            f"{courses} open courses of {nodes:,} nodes",
            partial(room_memory, knobs, nodes, courses),
            (Compared("KiB an open course, with one connection", _beside_peers(5.0)), started),
            worlds(),
        ),
    ]


def _histories(knobs: Knobs) -> Sequence[Row]:
    """Return the rows in which a stock document of the same history stands where others have peers."""
    compared = (
        Compared("compacted: opened in ms", (Aim("stock Yjs: opened in ms", 0.5),)),
        Compared("compacted: MiB more", (Aim("stock Yjs: MiB more", 0.5),)),
        Compared("stock Yjs: opened in ms"),
        Compared("stock Yjs: MiB more"),
        Compared("killed right after: opened in ms"),
        Compared("killed right after: MiB more"),
        Compared("further joins p50 ms"),
    )
    return [
        Row(
            f"history-{edits}",
            f"a course after {edits:,} edits by stock clients",
            partial(_of_ours, partial(history, edits, knobs)),
            compared,
            {OURS: embedded},
        )
        for edits in knobs.compared_histories
    ]


def _of_ours(measure: Callable[[], Figures], _: World) -> Figures:
    return measure()


def _presence(knobs: Knobs) -> Sequence[Row]:
    compared = (
        Compared("staleness p50 ms"),
        Compared("staleness p99 ms"),
        Compared("delivered states/s", more_is_better=True),
        Compared("server CPU us a delivered state"),
    )
    return [Row("awareness", label(knobs), partial(awareness, knobs), compared, worlds())]


def _receipts(knobs: Knobs) -> Sequence[Row]:
    """Return the rows of what no peer does, beside the bare commits of the same disk."""
    shape = knobs.receipts
    load = f"{shape.rooms} rooms × {shape.clients} writers, {shape.rate / shape.clients:g} edits/s each"
    compared = (
        Compared("receipt p50 ms"),
        Compared("receipt p95 ms", (Aim(limit=50.0),)),
        Compared("receipt p99 ms", (Aim(limit=100.0),)),
        Compared("commit p50 ms"),
        Compared("commit p95 ms"),
        Compared("commit p99 ms"),
        Compared("delivery p50 ms"),
        Compared("server CPU us an edit"),
    )
    databases: Sequence[tuple[str, str, World, Callable[[int], Figures]]] = (
        ("sqlite", "SQLite FULL", embedded, commits_sqlite),
        ("postgres", "PostgreSQL and Valkey", scaled, commits_postgres),
    )
    return [
        Row(f"receipts-{name}", f"{load}: {what}", partial(_beside_commits, knobs, commits), compared, {OURS: world})
        for name, what, world, commits in databases
    ]


def _beside_commits(knobs: Knobs, commits: Callable[[int], Figures], world: World) -> Figures:
    return {**commits(knobs.commits), **receipts(knobs, world)}


def _across(knobs: Knobs) -> Sequence[Row]:
    compared = (
        Compared("seen on A p50 ms"),
        Compared("seen on A p99 ms"),
        Compared("seen on B p50 ms"),
        Compared("seen on B p99 ms"),
        Compared("CPU of A us an edit"),
        Compared("CPU of B us an edit"),
    )
    return [
        Row(
            f"instances-{shape.rooms}",
            f"two instances: {shape.rooms} rooms, {shape.rate:g} edits/s in each by {shape.clients} clients on A, one on B",
            partial(across, shape, knobs),
            compared,
            {OURS: two_instances},
        )
        for shape in knobs.two_instances
    ]


def _beside_peers(times: float) -> tuple[Aim, ...]:
    return (Aim(at_least=times),)
