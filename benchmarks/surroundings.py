"""What a measurement ran on, and what else that machine did meanwhile."""

import contextlib
import importlib.metadata
import os
import platform
import resource
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil  # type: ignore[import-untyped]

from benchmarks.peers import node_version
from constructure_sync.protocol.readers import IMPLEMENTATION

_FOLDER: Final = Path(__file__).parent
_PACKAGES: Final = ("uvloop", "picows", "uvicorn", "starlette", "pycrdt", "sqlalchemy")
_BUSY_COLUMNS: Final = (0, 1, 2, 5, 6)  # of /proc/stat: user, nice, system, irq, softirq
_STEAL_COLUMN: Final = 7
_TICK: Final = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Noise:
    """What disturbed a run, in per cent of one core. steal: what the hypervisor took; others: what other processes used.

    Both are zero where the system does not tell.
    """

    steal: float = 0.0
    others: float = 0.0


@contextlib.contextmanager
def noise() -> Iterator[Noise]:
    """Yield what is filled at the end. All processes that the run starts have to end within."""
    heard = Noise()
    started, stat, own = time.perf_counter(), _processors(), _own_seconds()
    yield heard
    seconds = time.perf_counter() - started
    busy, steal = (now - before for now, before in zip(_processors(), stat, strict=True))
    heard.steal = 100 * steal / seconds
    heard.others = max(0.0, 100 * (busy - (_own_seconds() - own)) / seconds) if busy else 0.0


def surroundings() -> Mapping[str, str]:
    """Return what this runs on: machine, kernel, versions, and our commit and reader."""
    return {
        "machine": f"{_processor()}, {os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "packages": ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES),
        "Node.js": node_version(),
        "commit": commit(),
        "update reader": IMPLEMENTATION,
    }


def commit() -> str:
    """Return the commit that is measured; with `-dirty` where files differ from it."""
    # A container often runs as another user than the owner of the clone; git refuses that unless told.
    command = ["git", "-c", "safe.directory=*", "describe", "--always", "--dirty", "--exclude=*"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, cwd=_FOLDER)
    return answer.stdout.strip() or "unknown"


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _processors() -> tuple[float, float]:
    """Return the seconds so far in which all processors worked, and those that were stolen from them."""
    file = Path("/proc/stat")
    if not file.exists():
        return 0.0, 0.0
    columns = [int(word) * _TICK for word in file.read_text().split("\n", 1)[0].split()[1:]]
    return sum(columns[column] for column in _BUSY_COLUMNS), columns[_STEAL_COLUMN]


def _own_seconds() -> float:
    """Return the processor time so far of this process and of all that it has started and seen end."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)
