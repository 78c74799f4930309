"""The report of a comparison as Markdown: what was aimed at and what came out, every row, and where the time goes."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from benchmarks.aims import BEST_PEER, FLOOR, OURS, Aim, Compared
from benchmarks.comparison import Row
from benchmarks.figures import BUSY, GENERATOR, quantile, shown
from benchmarks.records import Measured, Profile, Records, Run

_LOUD: Final = 10.0  # per cent of a core that others took, from which a run counts as disturbed
_FEW_ROUNDS: Final = 5


def written(rows: Sequence[Row], records: Records, drawn: Mapping[str, str]) -> str:
    """Return the report. drawn: pictures, by what they show."""
    there = [(row, records.of(row.name)) for row in rows if records.of(row.name)]
    parts = [_HEAD, _ran_on([*records.rounds, *records.profiles]), _summary(there)]
    if drawn:
        pictures = "\n\n".join(f"![{what}]({file})" for what, file in drawn.items())
        parts.append(
            f"## In pictures\n\nMedians of all rounds; a bar reaches from the least to the greatest.\n\n{pictures}"
        )
    parts.append(_DETAILS + "\n\n" + "\n\n".join("\n".join(told(row, measured)) for row, measured in there))
    if records.profiles:
        labels = {row.name: row.label for row in rows}
        parts.append(_where_the_time_goes(records.profiles, labels))
    return "\n\n".join(parts) + "\n"


def told(row: Row, measured: Sequence[Measured]) -> list[str]:
    """Return one row: medians with their spread, what ours is beside the others, and what disturbed the runs."""
    names = [name for name in row.worlds if any(name in each.runs for each in measured)]
    has_peers = any(name not in (OURS, FLOOR) for name in names)
    head = ["", *names, *(["median ratio, lower quartile"] if has_peers else [])]
    lines = [f"### {row.label}", "", _line(head), "|---" * len(head) + "|"]
    for compared in row.compared:
        cells = [
            _cell(each.figures[name][compared.figure] for each in measured if name in each.figures) for name in names
        ]
        lines.append(_line([compared.figure, *cells, *([_beside(compared, measured)] if has_peers else [])]))
    ran = {name: [each.runs[name] for each in measured if name in each.runs] for name in names}
    for what, values in _circumstances(ran).items():
        lines.append(_line([what, *values, *([""] if has_peers else [])]))
    return [*lines, *_notes(ran)]


def _summary(there: Sequence[tuple[Row, Sequence[Measured]]]) -> str:
    lines = ["| workload | figure | aim | median | lower quartile | rounds | |", "|---" * 7 + "|"]
    for row, measured in there:
        for compared in row.compared:
            for aim in compared.aims:
                ratios = _ratios(aim, compared, measured)
                lines.append(_line([row.label, compared.figure, aim.words, *_verdict(aim, ratios)]))
    return _SUMMARY + "\n".join(lines)


def _verdict(aim: Aim, ratios: Sequence[float]) -> Sequence[str]:
    """Return the median, the quartile on the worse side, the number of rounds, and what that comes to."""
    if not ratios:
        return ["", "", "0", "not measured"]
    median, quartile = statistics.median(ratios), quantile(ratios, 0.25)
    verdict = "**falls short**"
    if median >= aim.at_least:
        verdict = "met" if quartile >= aim.at_least else "met by the median"
    few = ", few rounds" if len(ratios) < _FEW_ROUNDS else ""
    return [aim.told(median), aim.told(quartile), str(len(ratios)), verdict + few]


def _ratios(aim: Aim, compared: Compared, measured: Iterable[Measured]) -> Sequence[float]:
    ratios = (aim.ratio(each.figures, compared.figure, more_is_better=compared.more_is_better) for each in measured)
    return [ratio for ratio in ratios if ratio is not None]


def _beside(compared: Compared, measured: Sequence[Measured]) -> str:
    """Return how ours stands beside the best peer, and beside the floor where that ran."""
    words = []
    for aim in (Aim(BEST_PEER), Aim(FLOOR)):
        if ratios := _ratios(aim, compared, measured):
            of = f" of the {FLOOR}" if aim.against == FLOOR else ""
            words.append(f"{aim.told(statistics.median(ratios))}, {aim.told(quantile(ratios, 0.25))}{of}")
    return "; ".join(words) or "none ran"


def _circumstances(ran: Mapping[str, Sequence[Run]]) -> Mapping[str, Sequence[str]]:
    """Return, by server, what the generator used, and what the run was disturbed by."""
    whole = {name: [run for run in runs if not run.failure] for name, runs in ran.items()}
    return {
        GENERATOR: [_busy([run.figures.get(GENERATOR, 0.0) for run in runs]) for runs in whole.values()],
        "stolen from all cores, %": [_cell(run.steal for run in runs) for runs in whole.values()],
        "other processes, % of a core": [_cell(run.others for run in runs) for runs in whole.values()],
    }


def _busy(shares: Sequence[float]) -> str:
    return _cell(shares) + (" ▲" if any(share > BUSY for share in shares) else "")


def _notes(ran: Mapping[str, Sequence[Run]]) -> list[str]:
    """Return what a reader of the figures has to know."""
    notes = []
    for name, runs in ran.items():
        whole = [run for run in runs if not run.failure]
        busy = sum(run.figures.get(GENERATOR, 0.0) > BUSY for run in whole)
        if busy:
            bound = (
                "its figures, and the ratios, are lower bounds"
                if name == OURS
                else "it can do more than its figures say"
            )
            notes.append(
                f"▲ {name}: the generator used more than {BUSY:.0f} % of its core in {busy} of {len(runs)} runs; {bound}."
            )
        loud = sum(run.steal + run.others > _LOUD for run in whole)
        if loud:
            notes.append(f"{name}: {loud} of {len(runs)} runs lost more than {_LOUD:.0f} % of a core to others.")
        notes += sorted({f"{name}: {run.failure}" for run in runs if run.failure})
    return ["", *(f"- {note}" for note in notes)] if notes else []


def _ran_on(records: Sequence[Measured | Profile]) -> str:
    """Return what it ran on; each fact with all its values where rounds differ."""
    facts: dict[str, dict[str, None]] = {}
    for record in records:
        for name, value in record.on.items():
            facts.setdefault(name, {})[value] = None
    return "\n".join(f"- {name}: {'; '.join(values)}" for name, values in facts.items())


def _where_the_time_goes(profiles: Sequence[Profile], labels: Mapping[str, str]) -> str:
    parts = [_PROFILES]
    for title, tables in (
        ("By place", [(each, each.places) for each in profiles]),
        ("By whose code it was", [(each, each.parts) for each in profiles]),
    ):
        columns = list(dict.fromkeys(column for _, shares in tables for column in shares))
        if columns:
            lines = [_line([title, *columns]), "|---" * (len(columns) + 1) + "|"]
            lines += [
                _line([labels.get(each.row, each.row), *(f"{shares.get(column, 0.0):.0f}" for column in columns)])
                for each, shares in tables
            ]
            parts.append("\n".join(lines))
    notes = sorted({each.note for each in profiles if each.note})
    return "\n\n".join([*parts, *notes])


def _cell(values: Iterable[float]) -> str:
    all_of_them = list(values)
    if not all_of_them:
        return "–"
    spread = f" [{shown(min(all_of_them))} .. {shown(max(all_of_them))}]" if len(all_of_them) > 1 else ""
    return shown(statistics.median(all_of_them)) + spread


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


_HEAD: Final = """# Results

Written by `make bench`; the method, and what a figure means, are in the [README](README.md). Ours with the strict reader, roles,
limits, metrics and SQLite's `synchronous=FULL`; the others in memory, as their documentation starts them; the floor is a
broadcaster in C that does the system calls of the same load, and nothing else. Every server met every load in turn, in an order
that changed with the round, on the same core. Every run ended with all clients, and a fresh one, holding the same."""

_SUMMARY: Final = """## Aims

A ratio is that of one round, of ours to the best peer of that round; above 1 ours is better. Where the median misses its aim
the row falls short.

"""

_DETAILS: Final = """## Row by row

Medians, the least and the greatest in brackets."""

_PROFILES: Final = """## Where the time goes

Of the serving process under each load, in per cent of its processor time: first by place, as `perf` samples it (the kernel, the
interpreter, each library), then by whose code had called, as `py-spy` samples the thread that holds the interpreter's lock. System
calls that keep the lock are in the second with whoever made them."""
