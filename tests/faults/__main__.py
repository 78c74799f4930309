"""Run one, several or all of the long fault runs: `python -m tests.faults [NAME …] [--seed S] [options]`.

Each name is a module of this folder, imported only when it is asked for, with `add_arguments(parser)` and
`run(arguments) -> int` (0: everything held). Options behind several names go to each of them.
"""

import argparse
import importlib
import sys
import time
from typing import Final, Protocol, cast

RUNS: Final = {
    "kills": "SIGKILL the server in a loop while clients write; nothing acknowledged may be missing",
    "power": "cut the power of the disk at random moments; nothing acknowledged may be missing",
    "mutations": "mutated updates through the strict reader, then a fresh document",
    "native-mutations": "mutated updates through the compiled readers, under sanitizers and beside the same in Python",
    "frames": "mutated frames through real sockets",
    "differential": "random histories of Yjs clients: the same content everywhere, after restart and compaction too",
    "schedules": "the core under a virtual clock with cuts, delays and crashes; planted faults are caught",
    "moves": "stock clients edit one course on three instances, go offline and move between them; all end equal",
    "bus": "Redis restarts, is flushed, loses messages and is cut off under three instances; all catch up",
    "outages": "Postgres stops and is killed under load, and instances with it; receipts stay true",
    "restores": "an older copy of the database is restored under running instances; what anybody holds comes back",
    "storm": "a thousand clients, and one of two instances is killed; all are synced and saved again soon",
    "rolling": "instances restart one after the other behind a proxy; nobody is long away",
    "compaction": "compactions and purges cut at random steps, two at once, and power cuts; the log reads the same",
    "growth": "a million small edits to one course: what is stored and held, beside stock Yjs",
    "slow-readers": "sockets that stop reading during a steady broadcast",
}
DEFAULT_SEED: Final = 1


class Run(Protocol):
    """What a module of this folder offers."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the run's own options; counts have defaults that make the run one of some minutes."""
        ...

    def run(self, arguments: argparse.Namespace) -> int:
        """Run, print what was found, and return 0 when everything held."""
        ...


def load(name: str) -> Run:
    """Import the module of a run."""
    return cast(Run, importlib.import_module(f"tests.faults.{name.replace('-', '_')}"))


def make_parser(name: str, run: Run) -> argparse.ArgumentParser:
    """Return the command line of one run; a run may state its own `--seed`."""
    parser = argparse.ArgumentParser(prog=f"tests.faults {name}", description=RUNS[name], conflict_handler="resolve")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED, help="where all randomness starts")
    run.add_arguments(parser)
    return parser


def main(words: list[str]) -> int:
    """Run what the command line names. Returns 0 when everything held, 1 when something did not, 2 for a wrong name."""
    if words[:1] in (["-h"], ["--help"]):
        print(__doc__)
        for name in RUNS:
            print(make_parser(name, load(name)).format_help())
        return 0
    options = next((place for place, word in enumerate(words) if word.startswith("-")), len(words))
    names = words[:options] or list(RUNS)
    unknown = [name for name in names if name not in RUNS]
    if unknown:
        print(f"unknown: {', '.join(unknown)}; known: {', '.join(RUNS)}", file=sys.stderr)
        return 2
    failed = []
    for name in names:
        run = load(name)
        arguments = make_parser(name, run).parse_args(words[options:])
        print(f"== {name} (seed {arguments.seed}): {RUNS[name]}", flush=True)
        started = time.monotonic()
        if run.run(arguments):
            failed.append(name)
        outcome = "FAILED" if name in failed else "held"
        print(f"== {name}: {outcome}, {time.monotonic() - started:.0f} s", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
