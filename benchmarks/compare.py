"""Ours beside other servers, in turn in one run: `python -m benchmarks compare [--rounds N] [--seconds S]`.

In each round every server meets the same load, one after the other; a ratio is taken within a round. Ours runs with everything on
and its log on disk, the others as their documentation starts them, in memory.
"""

import argparse
import contextlib
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.figures import GENERATOR, Figures, machine, quantile, shown
from benchmarks.knobs import FULL, Knobs, Steady
from benchmarks.peers import PEERS, Peer, PeerProcess
from benchmarks.servers import Loadable, World, embedded, pin, unpin
from benchmarks.wire import LoadFailed
from benchmarks.workloads.saturation import saturate
from benchmarks.workloads.steady import steady

OURS: Final = "constructure-sync"
RESULTS: Final = Path(__file__).parent / "RESULTS.md"


@dataclass(frozen=True, slots=True)
class Row:
    """One load, and its figures that are compared, each with whether more is better."""

    label: str
    load: Callable[[World], Figures]
    compared: Mapping[str, bool]


@dataclass(frozen=True, slots=True)
class PeerTarget:
    """A peer under load."""

    process: PeerProcess
    rooms: int
    echoes: bool = True

    @property
    def instances(self) -> Sequence[PeerProcess]:
        return [self.process]

    def url(self, room: int, instance: int = 0) -> str:
        """Return where a client syncs a room."""
        return self.process.url(room)

    def urls(self) -> list[str]:
        """Return where fresh clients sync, by room."""
        return [self.url(room) for room in range(self.rooms)]


def rows(knobs: Knobs) -> Sequence[Row]:
    """Return what is compared."""
    delays = {"delivery p50 ms": False, "delivery p99 ms": False, "server CPU us a delivery": False}
    most = {"delivered/s": True, "server CPU us a delivery": False}
    one_room = replace(knobs, saturated_rooms=1, saturated_clients=100, saturated_writers=10)
    return [
        Row("1 room x 20 clients, 100 edits/s", partial(steady, Steady(1, 20, 100), knobs), delays),
        Row("1 room x 100 clients, 100 edits/s", partial(steady, Steady(1, 100, 100), knobs), delays),
        Row("10 rooms x 20, 2 writers with 8 edits on their way", partial(saturate, knobs, 8), most),
        Row("10 rooms x 20, 2 writers with 1 edit on its way", partial(saturate, knobs, 1), most),
        Row("1 room x 100, 10 writers with 4 edits on their way", partial(saturate, one_room, 4), most),
    ]


def world_of(peer: Peer) -> World:
    """Return what starts a peer for a load."""

    @contextlib.contextmanager
    def world(rooms: int) -> Iterator[Loadable]:
        with PeerProcess(peer) as process:
            pin(process)
            yield PeerTarget(process, rooms)

    return world


def run(words: Sequence[str]) -> int:
    """Compare, print each round, and write RESULTS.md."""
    parser = argparse.ArgumentParser(prog="benchmarks compare", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args(words)
    knobs = replace(FULL, seconds=arguments.seconds)
    worlds: dict[str, World] = {OURS: embedded, **{peer.name: world_of(peer) for peer in PEERS}}
    ran_on, parts = machine(), []
    for row in rows(knobs):
        rounds = [_round(row, worlds) for _ in range(arguments.rounds)]
        parts.append("\n".join(told(row, rounds)))
        print(parts[-1], flush=True)
    arguments.output.write_text(_HEAD.format(machine=ran_on, rounds=arguments.rounds) + "\n\n".join(parts) + "\n")
    return 0


def _round(row: Row, worlds: Mapping[str, World]) -> dict[str, Figures]:
    """Have every server meet the load once; one that fails has no figures."""
    got: dict[str, Figures] = {}
    for name, world in worlds.items():
        unpin()
        try:
            got[name] = row.load(world)
        except LoadFailed as failure:
            print(f"{name}: {failure}", flush=True)
            if name == OURS:
                raise
    return got


def told(row: Row, rounds: Sequence[Mapping[str, Figures]]) -> list[str]:
    """Return the Markdown of one row: medians, and how many times better ours was than each in the same round."""
    names = [OURS, *(peer.name for peer in PEERS)]
    lines = [f"### {row.label}", "", "| | " + " | ".join(names) + " | best peer: median ratio, lower quartile |"]
    lines.append("|---" * (len(names) + 2) + "|")
    for figure, more_is_better in row.compared.items():
        cells = [_cell([each[name][figure] for each in rounds if name in each]) for name in names]
        ratios = [_ratio(each, figure, more_is_better=more_is_better) for each in rounds if len(each) > 1]
        best = f"{statistics.median(ratios):.2f}, {quantile(ratios, 0.25):.2f}" if ratios else "none ran"
        lines.append(f"| {figure} | " + " | ".join(cells) + f" | {best} |")
    busy = [_cell([each[name][GENERATOR] for each in rounds if name in each]) for name in names]
    lines.append(f"| {GENERATOR} | " + " | ".join(busy) + " | |")
    return lines


def _ratio(figures: Mapping[str, Figures], figure: str, *, more_is_better: bool) -> float:
    """Return how many times better ours was than the best of the others."""
    ours, others = figures[OURS][figure], [each[figure] for name, each in figures.items() if name != OURS]
    return ours / max(others) if more_is_better else min(others) / ours


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "failed"
    return f"{shown(statistics.median(values))} [{shown(min(values))} .. {shown(max(values))}]"


_HEAD: Final = """# Results

Written by `make bench-peers`. Ours with the strict reader, roles, limits, metrics and SQLite's `synchronous=FULL`; the others in
memory, as their documentation starts them. Every server in turn, {rounds} rounds; a ratio is that of one round, above 1 ours is
better. Medians, the least and the greatest in brackets. Every run ended with all clients holding the same. The method is in the
[README](README.md).

{machine}

"""
