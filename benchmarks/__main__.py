"""Measure: `python -m benchmarks compare` beside other servers, `profile` where the time goes, `own [NAME …]` this server alone;
or load a deployment: `python -m benchmarks URL …`. Each tells more with `--help`.
"""

import argparse
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol, cast

from benchmarks import compare, live, profiles
from benchmarks.figures import Case, as_json, machine, measure
from benchmarks.knobs import FULL, SMOKE, Knobs
from benchmarks.servers import allow_many_sockets, unpin
from benchmarks.wire import Absent

WORKLOADS: Final = {
    "idle": "memory of connections that do nothing",
    "rooms": "memory of open courses",
    "steady": "delay and cost of deliveries at a fixed rate of edits",
    "saturation": "deliveries a second of one core",
    "receipts": "delay until an edit is known to be on disk",
    "instances": "delay and cost of an edit on another instance",
    "opening": "time and memory to open a course with a history",
    "joins": "time and cost to join a large course: open, let go, by a crowd",
    "rejoin": "time until others see what was written offline, alone and by a crowd",
    "history": "a course after very many edits, beside stock Yjs",
    "awareness": "cursors of many people in one room, with what stock clients send back",
    "traces": "real editing traces and courses, sent again by many writers",
    "floor": "ours beside the system calls alone, in C",
}


class Workload(Protocol):
    """What a module of `workloads` offers."""

    def cases(self, knobs: Knobs) -> Sequence[Case]:
        """Return what is measured, in order."""
        ...


def main(words: Sequence[str]) -> int:
    """Do what the command line names."""
    commands: Mapping[str, Callable[[Sequence[str]], int]] = {
        "compare": compare.run,
        "profile": profiles.run,
        "own": own,
    }
    if words and "://" in words[0]:
        return live.run(words)
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("command", choices=commands, help="or the URL of a room")
    command = parser.parse_args(words[:1]).command
    allow_many_sockets()
    return commands[command](words[1:])


def own(words: Sequence[str]) -> int:
    """Measure this server alone. Each name is a module of `workloads`; without one all are measured, one after the other."""
    names = "\n".join(f"  {name:<12} {what}" for name, what in WORKLOADS.items())
    parser = argparse.ArgumentParser(
        prog="benchmarks own",
        description=f"{own.__doc__}\n\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*WORKLOADS, []], help="one of the above")
    parser.add_argument("--smoke", action="store_true", help="two minutes that show that everything runs and is right")
    parser.add_argument("--runs", type=int, help="of each case; their median counts")
    parser.add_argument("--edits", type=int, help="of the one course that `history` then measures")
    parser.add_argument("--json", type=Path, help="also append every run to this file, a line for each case")
    arguments = parser.parse_args(words)
    knobs = SMOKE if arguments.smoke else FULL
    if arguments.runs:
        knobs = replace(knobs, runs=arguments.runs)
    if arguments.edits:
        knobs = replace(knobs, histories=(arguments.edits,))
    print(machine(), flush=True)
    for name in arguments.names or WORKLOADS:
        workload = cast(Workload, importlib.import_module(f"benchmarks.workloads.{name}"))
        print(f"\n== {name}: {WORKLOADS[name]}", flush=True)
        for case in workload.cases(knobs):
            unpin()
            try:
                outcome = measure(case, knobs.runs)
            except Absent as absent:
                print(f"{case.label}: left out, {absent}", flush=True)
                continue
            print("\n".join(outcome.lines()), flush=True)
            if arguments.json:
                with arguments.json.open("a") as file:
                    file.write(as_json(outcome) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
