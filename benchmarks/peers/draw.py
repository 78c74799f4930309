"""Draws pictures with Matplotlib: `python draw.py`, with a list of them as JSON on its input."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib  # type: ignore[import-not-found]
from matplotlib import pyplot, ticker

OURS, FLOOR = "constructure-sync", "C floor"
# Of the palette of Okabe and Ito, which all eyes tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")


@dataclass(frozen=True)
class Panel:
    """One pair of axes. series: points by server."""

    label: str
    series: dict[str, list[dict[str, float]]]


@dataclass(frozen=True)
class Picture:
    """A picture of panels side by side that share what is along the x axis."""

    file: str
    title: str
    along: str
    panels: Sequence[Panel]


def main() -> None:
    """Draw all that the input lists."""
    matplotlib.use("svg")
    # Nothing in a file may differ but what is drawn.
    pyplot.rcParams.update({"svg.hashsalt": "", "svg.fonttype": "none", "font.size": 10, "font.family": "sans-serif"})
    for each in json.load(sys.stdin):
        panels = [Panel(**panel) for panel in each.pop("panels")]
        draw(Picture(**each, panels=panels))


def draw(picture: Picture) -> None:
    """Draw one, on logarithmic axes."""
    count = len(picture.panels)
    figure, axes = pyplot.subplots(1, count, figsize=(4.6 * count + 1.2, 4.4), squeeze=False, layout="constrained")
    servers = sorted(
        {name for panel in picture.panels for name in panel.series},
        key=lambda name: (name != OURS, name == FLOOR, name),
    )
    places = sorted({point["x"] for panel in picture.panels for points in panel.series.values() for point in points})
    for axis, panel in zip(axes[0], picture.panels, strict=True):
        for number, server in enumerate(servers):
            points = panel.series.get(server, [])
            spread = [[p["median"] - p["least"] for p in points], [p["greatest"] - p["median"] for p in points]]
            axis.errorbar(
                [p["x"] for p in points],
                [p["median"] for p in points],
                yerr=spread,
                label=server,
                color="#555555" if server == FLOOR else COLOURS[number % len(COLOURS)],
                marker=MARKERS[number % len(MARKERS)],
                linestyle=":" if server == FLOOR else "-",
                linewidth=2.4 if server == OURS else 1.4,
                markersize=6,
                capsize=3,
                zorder=3 if server == OURS else 2,
            )
        axis.set(xscale="log", yscale="log", xlabel=picture.along, ylabel=panel.label)
        axis.xaxis.set_major_locator(ticker.FixedLocator(places))
        axis.xaxis.set_minor_locator(ticker.NullLocator())
        axis.xaxis.set_major_formatter(ticker.FuncFormatter(shown))
        axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5), numticks=99))
        axis.yaxis.set_minor_locator(ticker.NullLocator())
        axis.yaxis.set_major_formatter(ticker.FuncFormatter(shown))
        axis.grid(color="#dddddd", linewidth=0.8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(picture.title, fontsize=12)
    figure.legend(
        *axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=min(len(servers), 5), frameon=False
    )
    Path(picture.file).parent.mkdir(exist_ok=True)
    figure.savefig(picture.file, metadata={"Date": None} if picture.file.endswith(".svg") else None)
    pyplot.close(figure)


def shown(value: float, _: object) -> str:
    """Return a number as it stands at an axis."""
    return f"{value:,.0f}" if value >= 10 else f"{value:g}"


if __name__ == "__main__":
    main()
