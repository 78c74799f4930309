"""Loads a deployment that runs already, and says what its clients saw."""

import argparse
import random
import sys
import time
from collections.abc import Sequence
from typing import Final

from benchmarks.check import check
from benchmarks.figures import BUSY, latency, quantile, shown
from benchmarks.generator import Generator
from benchmarks.wire import LoadFailed

_SLICE_SECONDS: Final = 1.0  # between two lines of progress


def run(words: Sequence[str]) -> int:
    """Load what the command line names. Returns 1 when something was refused or lost."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument(
        "urls", nargs="+", metavar="URL", help="of a room as a provider opens it: wss://host/sync/ROOM?token=..."
    )
    parser.add_argument("--clients", type=int, default=20, help="in each room")
    parser.add_argument(
        "--rate", type=float, default=20.0, help="edits a second in each room, by all its clients in turn"
    )
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args(words)
    try:
        with Generator(random.Random()) as generator:
            _load(generator, arguments.urls, arguments.clients, arguments.rate, arguments.seconds)
    except (LoadFailed, OSError) as failure:  # OSError: a line broke, or nothing came in time
        print(f"failed: {failure}", file=sys.stderr)
        return 1
    return 0


def _load(generator: Generator, urls: Sequence[str], clients: int, rate: float, seconds: float) -> None:
    joins = []
    for room, url in enumerate(urls):
        for _ in range(clients):
            started = time.perf_counter()
            generator.join(url, room)
            joins.append(time.perf_counter() - started)
            _progress(f"{len(joins)} of {len(urls) * clients} clients have joined")
    started, own = time.perf_counter(), time.process_time()
    elapsed = 0.0
    while elapsed < seconds:
        seen = len(generator.latencies)
        generator.steadily(generator.clients, rate * len(urls), min(_SLICE_SECONDS, seconds - elapsed))
        elapsed = time.perf_counter() - started
        p50 = quantile(generator.latencies[seen:], 0.5) * 1e3
        _progress(f"{elapsed:.0f} of {seconds:.0f} s, {len(generator.sent_at)} edits, p50 {shown(p50)} ms")
    busy = 100 * (time.process_time() - own) / elapsed
    generator.settle()
    _progress("every edit has arrived; comparing contents\n")
    check(generator, urls)
    print(f"{len(joins)} clients in {len(urls)} rooms; joining took p50 {shown(quantile(joins, 0.5) * 1e3)} ms")
    print(f"{len(generator.sent_at) / elapsed:.1f} edits/s, {len(generator.latencies) / elapsed:.0f} delivered/s")
    for name, value in latency("delivery", generator.latencies).items():
        print(f"{name} {shown(value)}")
    print(f"all clients and a fresh one hold the same; this generator used {busy:.0f} % of a core")
    if busy > BUSY:
        print("the generator was busy all the time: the server can do more than this")


def _progress(words: str) -> None:
    print(f"\r{words:<72}", end="", file=sys.stderr, flush=True)
