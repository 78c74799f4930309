"""Where the serving process spends its time under each load: `python -m benchmarks profile`.

`perf` says in which place (the kernel, the interpreter, a library), `py-spy` whose Python code had called. What is not installed is
left out; the kernel's own count of the time in it and outside is always there.
"""

import argparse
import contextlib
import re
import shutil
import subprocess
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from benchmarks.aims import OURS
from benchmarks.compare import RAW
from benchmarks.comparison import Row, rows
from benchmarks.knobs import FULL
from benchmarks.records import Profile, append
from benchmarks.servers import Loadable, embedded, unpin
from benchmarks.surroundings import surroundings

_SAMPLES: Final = 499  # a second
_EXTRA_SECONDS: Final = 30.0  # until a tool has written what it sampled
_WARM_SECONDS: Final = 6.0  # joining, warming up and coming to rest, which is not what a load costs
_PLACES: Final = (
    ("kernel", re.compile(r"\[kernel|\[unknown\]|\[guest")),
    ("our reader in C", re.compile(r"_native")),
    ("interpreter", re.compile(r"libpython|^python3?|\[vdso\]")),
    ("event loop and sockets", re.compile(r"^loop\.|uvloop|picows")),
    ("SQLite", re.compile(r"sqlite", re.IGNORECASE)),
    ("libc", re.compile(r"^libc[.-]|^libm[.-]|^ld-|libpthread|musl")),
    ("other libraries", re.compile("")),
)
_PARTS: Final = (
    ("framing and sockets", re.compile(r"constructure_sync/(?:transport/|protocol/(?:framing|messages)\.py)")),
    ("reader", re.compile(r"constructure_sync/protocol/")),
    ("room", re.compile(r"constructure_sync/rooms/")),
    ("log", re.compile(r"constructure_sync/persistence/|storage/")),
    ("graph and replicas", re.compile(r"constructure_sync/(?:graph|replica)/")),
    ("everything else", re.compile("")),
)
_TIMES: Final = (11, 12)  # fields of /proc/PID/stat behind the program's name: ticks outside the kernel and in it
_UNSAMPLED: Final = re.compile(
    r"join-evicted|idle-|open-rooms|history-"
)  # rows that wait most of the time, or start servers anew


@dataclass(slots=True)
class Watch:
    """Samples a server while it is loaded. places, parts: as of Profile, once it has ended."""

    seconds: float
    places: Mapping[str, float] = field(default_factory=dict)
    parts: Mapping[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def world(self, rooms: int) -> Iterator[Loadable]:
        """Yield our server, which is sampled from when it has warmed up."""
        with embedded(rooms) as target, tempfile.TemporaryDirectory() as folder:
            is_over = threading.Event()
            sampler = threading.Thread(target=self._sample, args=(target.server.pid, Path(folder), is_over))
            sampler.start()
            try:
                yield target
            finally:
                is_over.set()
                sampler.join()

    def _sample(self, pid: int, folder: Path, is_over: threading.Event) -> None:
        if is_over.wait(_WARM_SECONDS):
            return
        before = _ticks(pid)
        tools = [_start(command) for command in self._commands(pid, folder)]
        is_over.wait(self.seconds)
        user, kernel = (now - then for now, then in zip(_ticks(pid), before, strict=True))
        for tool in tools:
            tool.wait(_EXTRA_SECONDS)
        if user + kernel:
            self.places = {"kernel": 100 * kernel / (user + kernel), "outside the kernel": 100 * user / (user + kernel)}
        if (folder / "perf").exists():
            command = ["perf", "report", "-q", "-i", str(folder / "perf"), "--stdio", "-t", ";", "-s", "dso"]
            report = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_EXTRA_SECONDS)
            self.places = places_of(report.stdout.splitlines()) or self.places
        if (folder / "stacks").exists():
            self.parts = parts_of((folder / "stacks").read_text().splitlines())

    def _commands(self, pid: int, folder: Path) -> Iterator[Sequence[str]]:
        """Yield what samples the process, of what is installed."""
        seconds = f"{self.seconds:.0f}"
        if shutil.which("perf"):
            what = ["perf", "record", "-q", "-e", "cpu-clock", "-F", str(_SAMPLES), "-p", str(pid)]
            yield [*what, "-o", str(folder / "perf"), "--", "sleep", seconds]
        if shutil.which("py-spy"):
            what = ["py-spy", "record", "--gil", "--nonblocking", "-r", str(_SAMPLES), "-d", seconds, "-p", str(pid)]
            yield [*what, "-f", "raw", "-o", str(folder / "stacks")]


def run(words: Sequence[str]) -> int:
    """Profile the loads that the command line names."""
    parser = argparse.ArgumentParser(prog="benchmarks profile", description=__doc__)
    parser.add_argument("--only", metavar="PATTERN", default="", help="a regular expression, found in a row's name")
    parser.add_argument("--seconds", type=float, default=10.0, help="of samples for each load")
    parser.add_argument("--json", type=Path, metavar="FILE", default=RAW, help="where they are kept, with the runs")
    arguments = parser.parse_args(words)
    # The load goes on until the samples are there.
    knobs = replace(FULL, seconds=arguments.seconds + _WARM_SECONDS)
    for row in rows(knobs):
        if re.search(arguments.only, row.name) and row.worlds[OURS] is embedded and not _UNSAMPLED.match(row.name):
            unpin()
            profile = _profile(row, arguments.seconds)
            append(arguments.json, profile)
            print(f"{row.label}: {_told(profile.places)}; {_told(profile.parts)}", flush=True)
    return 0


def _profile(row: Row, seconds: float) -> Profile:
    watch = Watch(seconds)
    row.load(watch.world)
    absent = [tool for tool in ("perf", "py-spy") if not shutil.which(tool)]
    note = f"Not installed where this was profiled: {', '.join(absent)}." if absent else ""
    return Profile(row.name, surroundings(), watch.places, watch.parts, note)


def _start(command: Sequence[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _ticks(pid: int) -> tuple[int, int]:
    """Return the processor time so far of a process outside the kernel and in it; zeros where the system does not tell."""
    file = Path(f"/proc/{pid}/stat")
    if not file.exists():
        return 0, 0
    fields = file.read_text().rpartition(")")[2].split()
    user, kernel = (int(fields[number]) for number in _TIMES)
    return user, kernel


def _told(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {share:.0f} %" for name, share in shares.items()) or "not sampled"


def places_of(lines: Iterable[str]) -> Mapping[str, float]:
    """Return per cent by place, of what `perf report` says of shared objects."""
    shares: dict[str, float] = {}
    for line in lines:
        share, _, place = line.strip().partition(";")
        if "%" in share:
            label = _first(_PLACES, place.strip())
            shares[label] = shares.get(label, 0.0) + float(share.partition("%")[0])
    return _ordered(shares, _PLACES)


def parts_of(lines: Iterable[str]) -> Mapping[str, float]:
    """Return per cent by part of ours, of stacks with their numbers: the innermost frame of ours says whose code it was."""
    counts: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        frames = reversed(stack.split(";"))
        own = next((frame for frame in frames if "constructure_sync/" in frame or "storage/" in frame), "")
        counts[_first(_PARTS, "" if "cli.py" in own else own)] += int(count)
    total = sum(counts.values())
    return _ordered({name: 100 * count / total for name, count in counts.items()}, _PARTS) if total else {}


def _first(table: Sequence[tuple[str, re.Pattern[str]]], name: str) -> str:
    return next(label for label, pattern in table if pattern.search(name))


def _ordered(shares: Mapping[str, float], table: Sequence[tuple[str, re.Pattern[str]]]) -> Mapping[str, float]:
    return {label: shares[label] for label, _ in table if shares.get(label)}
