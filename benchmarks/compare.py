"""Ours beside other servers, in turn in one run, and the report of it: `python -m benchmarks compare`.

In each round every server meets the same load, one after the other, in an order that changes with the round; a ratio is taken
within a round. A peer that was far behind another one in the first rounds is left out of the others.
Ours runs with everything on and its log on disk, the others as their documentation starts them, in memory.
"""

import argparse
import re
import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Final

from benchmarks.aims import FLOOR, OURS, Round
from benchmarks.comparison import Row, rows
from benchmarks.figures import shown
from benchmarks.knobs import FULL
from benchmarks.plots import draw
from benchmarks.records import Measured, Run, append, read
from benchmarks.report import told, written
from benchmarks.servers import World, unpin
from benchmarks.surroundings import noise, surroundings
from benchmarks.wire import Absent, LoadFailed

FOLDER: Final = Path(__file__).parent
RESULTS: Final = FOLDER / "RESULTS.md"
RAW: Final = FOLDER / "results.jsonl"
_ROUNDS: Final = 5
_TRIALS: Final = 2
_FAR: Final = 2.0  # times worse than the best peer: it will not become the best any more


def run(words: Sequence[str]) -> int:
    """Compare, print each row, and write the report. Returns 1 when ours failed under a load."""
    arguments = _arguments(words)
    compared = rows(replace(FULL, seconds=arguments.seconds))
    if arguments.written_from is None:
        if not arguments.append:
            arguments.json.unlink(missing_ok=True)
        chosen = [row for row in compared if re.search(arguments.only, row.name)]
        until = time.monotonic() + arguments.within
        is_whole = all(_measure(row, arguments.rounds, arguments.json, until) for row in chosen)
        print("all rounds are there" if is_whole else "rounds are missing: the same command with --append goes on")
    records = read(arguments.written_from or arguments.json)
    failed = [each for each in records.rounds if OURS not in each.figures]
    drawn = draw(records, arguments.output.parent / "plots")
    arguments.output.write_text(written(compared, records, drawn), encoding="utf-8")
    return int(bool(failed))


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks compare", description=__doc__)
    names = ", ".join(row.name for row in rows(FULL))
    parser.add_argument("--only", metavar="PATTERN", default="", help=f"a regular expression, found in one of: {names}")
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    parser.add_argument("--seconds", type=float, default=FULL.seconds, help="of load in each run")
    parser.add_argument("--json", type=Path, metavar="FILE", default=RAW, help="where every run is kept")
    parser.add_argument(
        "--append", action="store_true", help="keep what the file holds, and measure only what it lacks"
    )
    parser.add_argument(
        "--within", type=float, metavar="SECONDS", default=float("inf"), help="begin no round after so long"
    )
    parser.add_argument(
        "--from", dest="written_from", type=Path, metavar="FILE", help="measure nothing: write the report of this file"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", default=RESULTS, help="the report")
    return parser.parse_args(words)


def _measure(row: Row, count: int, file: Path, until: float) -> bool:
    """Measure the rounds of a row that a file lacks. Returns whether it has all of them now."""
    measured = read(file).of(row.name)
    for number in range(len(measured), count):
        if time.monotonic() > until:
            return False
        measured.append(one_round(row, number, {**far_behind(row, measured), **_failed(measured)}))
        append(file, measured[-1])
        print(f"{row.name} {number + 1}/{count}: {_first_figures(row, measured[-1])}", flush=True)
    print("\n".join(told(row, measured)), flush=True)
    return True


def one_round(row: Row, number: int, failed: Mapping[str, str]) -> Measured:
    """Have every server meet the load once; one that fails, or is not here, has no figures.

    failed: others that are not asked again, and why.
    """
    names = list(row.worlds)
    first = number % len(names)
    runs = {
        name: Run({}, failure=failed[name]) if name in failed else _run(row, row.worlds[name])
        for name in names[first:] + names[:first]
    }
    return Measured(row.name, number, surroundings(), runs)


def _failed(measured: Sequence[Measured]) -> Mapping[str, str]:
    return {name: run.failure for each in measured for name, run in each.runs.items() if run.failure and name != OURS}


def far_behind(row: Row, measured: Sequence[Measured]) -> Mapping[str, str]:
    """Return the peers that were far behind the best of them by all that has an aim, whenever they ran, and how that is told.

    They cannot change a ratio to the best peer any more, and take most of the time.
    """
    if len(measured) < _TRIALS:
        return {}
    rounds = [each.figures for each in measured]
    peers = [name for name in row.worlds if name not in (OURS, FLOOR)]
    told = f"left out after {_TRIALS} rounds: {_FAR:g} times behind the best peer and more"
    return {peer: told for peer in peers if all(_is_far(row, peer, set(peers), ran) for ran in rounds if peer in ran)}


def _is_far(row: Row, peer: str, peers: Set[str], ran: Round) -> bool:
    others = [figures for name, figures in ran.items() if name in peers]
    aimed = [each for each in row.compared if each.aims] or row.compared[:1]
    for each in aimed:
        own, all_of_them = ran[peer][each.figure], [figures[each.figure] for figures in others]
        ratio = max(all_of_them) / own if each.more_is_better else own / min(all_of_them)
        if ratio < _FAR:
            return False
    return True


def _run(row: Row, world: World) -> Run:
    unpin()
    with noise() as heard:
        try:
            figures, failure = row.load(world), ""
        except Absent as absent:
            figures, failure = {}, f"not here: {absent}"
        except (LoadFailed, OSError, RuntimeError) as error:
            figures, failure = {}, f"failed: {error}"
    return Run(figures, heard.steal, heard.others, failure)


def _first_figures(row: Row, measured: Measured) -> str:
    name = row.compared[0].figure
    runs = (f"{server} {run.failure or shown(run.figures[name])}" for server, run in measured.runs.items())
    return f"{name}: " + ", ".join(runs)
