"""What is measured, and how it is told: each case several times, medians with the least and the greatest, and what it ran on."""

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

Figures = Mapping[str, float]
BUSY: Final = 85.0  # per cent of a core from which the generator may be what is measured
GENERATOR: Final = "generator CPU %"


@dataclass(frozen=True, slots=True)
class Case:
    """One row: what it is called, and what measures it once. A figure's name ends with its unit."""

    label: str
    measure: Callable[[], Figures]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The runs of a case. load: the machine's load average (1 min) before the first."""

    label: str
    runs: Sequence[Figures]
    load: float

    def lines(self) -> list[str]:
        """Return what to print."""
        lines = [f"{self.label}   ({len(self.runs)} runs, load before {self.load:.1f})"]
        for name in self.runs[0]:
            values = [run[name] for run in self.runs]
            spread = f"[{shown(min(values))} .. {shown(max(values))}]" if len(values) > 1 else ""
            lines.append(f"  {name:<40} {shown(statistics.median(values)):>10} {spread}".rstrip())
        if statistics.median([run.get(GENERATOR, 0.0) for run in self.runs]) > BUSY:
            lines.append("  the generator was busy all the time: the server can do more than this")
        return lines


def measure(case: Case, runs: int) -> Outcome:
    """Measure a case so often."""
    load = os.getloadavg()[0]
    return Outcome(case.label, [case.measure() for _ in range(runs)], load)


def shown(value: float) -> str:
    """Return a figure with three digits that count."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value else "0"


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which that share of all lies; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def latency(name: str, seconds: Sequence[float]) -> Figures:
    """Return the median and the tail of some latencies."""
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
    return {f"{name} {label} ms": quantile(seconds, share) * 1e3 for label, share in shares.items()}


def machine() -> str:
    """Return in one line what this runs on: processor, cores, system, Python, commit, time."""
    model = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "unknown"
    )
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    ).stdout.strip()
    return (
        f"{model}, {os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}, "
        f"commit {commit}, {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC, load {os.getloadavg()[0]:.1f}"
    )


def as_json(outcome: Outcome) -> str:
    """Return all runs as one line of JSON."""
    return json.dumps({"case": outcome.label, "load": outcome.load, "runs": [dict(run) for run in outcome.runs]})


def _lines(file: str) -> list[str]:
    path = Path(file)
    return path.read_text().splitlines() if path.exists() else []
