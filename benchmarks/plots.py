"""Pictures of a comparison: what is drawn, from its records. `peers/draw.py` draws it, in the environment that has Matplotlib."""

import json
import re
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.peers import ENVIRONMENT, FOLDER
from benchmarks.records import Records

STOCK: Final = "stock Yjs document"
_DRAW_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True)
class Plot:
    """A picture. rows: matches the names of its rows, and where they stand along the x axis; others: further rows with their place.

    panels: what stands at the y axis, by figure; beside: a figure of ours that has a line of its own there, as stock Yjs.
    """

    file: str
    title: str
    along: str
    rows: re.Pattern[str]
    panels: Mapping[str, str]
    others: Mapping[str, int] = field(default_factory=dict)
    beside: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Point:
    """One row in a picture: where it stands, and the median, the least and the greatest of its runs."""

    x: float
    median: float
    least: float
    greatest: float


PLOTS: Final = (
    Plot(
        "latency",
        "Delivery latency against connections: one room, 100 edits/s",
        "clients in the room",
        re.compile(r"fan-out-(\d+)"),
        {"delivery p50 ms": "median, ms", "delivery p99 ms": "99th percentile, ms"},
    ),
    Plot(
        "throughput",
        "Throughput against rooms: 20 clients in each, 2 writers with 8 edits on their way",
        "rooms",
        re.compile(r"rooms-(\d+)"),
        {"delivered/s": "delivered a second", "server CPU us a delivery": "processor time of a delivery, µs"},
        {"saturation-8": 10},
    ),
    Plot(
        "history",
        "Cost of a course against the length of its history",
        "edits that were made",
        re.compile(r"history-(\d+)"),
        {"compacted: opened in ms": "time to open, ms", "compacted: MiB more": "memory once open, MiB"},
        beside={
            "compacted: opened in ms": "stock Yjs: opened in ms",
            "compacted: MiB more": "stock Yjs: MiB more",
        },
    ),
)


def draw(records: Records, folder: Path, plots: Sequence[Plot] = PLOTS) -> Mapping[str, str]:
    """Draw what there is, and return the pictures' places beside the report, by title. None where nothing draws here."""
    python = ENVIRONMENT / "bin" / "python"
    there = [(plot, panels) for plot in plots if any((panels := series(plot, records)).values())]
    if not there or not python.exists():
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    pictures = [
        {
            "file": str(folder / f"{plot.file}.svg"),
            "title": plot.title,
            "along": plot.along,
            "panels": [
                {
                    "label": plot.panels[figure],
                    "series": {server: [asdict(point) for point in points] for server, points in lines.items()},
                }
                for figure, lines in panels.items()
            ],
        }
        for plot, panels in there
    ]
    subprocess.run(
        [python, FOLDER / "draw.py"], input=json.dumps(pictures), text=True, check=True, timeout=_DRAW_SECONDS
    )
    return {plot.title: f"{folder.name}/{plot.file}.svg" for plot, _ in there}


def series(plot: Plot, records: Records) -> Mapping[str, Mapping[str, Sequence[Point]]]:
    """Return the points of a picture, by figure and server, along the x axis."""
    values: dict[tuple[str, str, int], list[float]] = {}
    for measured in records.rounds:
        match = plot.rows.fullmatch(measured.row)
        x = int(match[1]) if match else plot.others.get(measured.row)
        if x is None:
            continue
        for server, figures in sorted(measured.figures.items()):
            for figure in plot.panels.keys() & figures.keys():
                values.setdefault((figure, server, x), []).append(figures[figure])
                if plot.beside.get(figure) in figures:
                    values.setdefault((figure, STOCK, x), []).append(figures[plot.beside[figure]])
    panels: dict[str, dict[str, list[Point]]] = {figure: {} for figure in plot.panels}
    for (figure, server, x), runs in sorted(values.items()):
        point = Point(x, statistics.median(runs), min(runs), max(runs))
        panels[figure].setdefault(server, []).append(point)
    return panels
