"""Random histories of stock Yjs clients around the server's own path of an update: everybody ends with the same content.

Two to four clients edit at once, go offline, lose frames, undo, part surrogate pairs; the server folds, compacts, restarts and
loses what it had not saved. Then compared, in stock Yjs: the clients, a newcomer, the log, its joined and its compacted forms;
and once more after a restart from the compacted log to which a client comes back with old offline edits.
"""

import argparse
import random
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Final

from constructure_sync.protocol.lib0 import Reader, var_bytes, var_string, write_var_uint
from tests.faults.node_process import NodeProcess
from tests.faults.offline_server import Message, OfflineServer

BEGIN, ROUND, SETTLE, LATE, CHECK = range(5)
BATCH: Final = 100
ROUNDS: Final = 8
MOST_SETTLING_ROUNDS: Final = 60


@dataclass(slots=True)
class Outcome:
    """What some histories came to. failures: (seed, what differed)."""

    histories: int = 0
    edits: int = 0
    taken: int = 0
    cut: int = 0
    crashes: int = 0
    compactions: int = 0
    failures: list[tuple[int, str]] = field(default_factory=list)

    def add(self, other: "Outcome") -> None:
        self.histories += other.histories
        self.edits += other.edits
        self.taken += other.taken
        self.cut += other.cut
        self.crashes += other.crashes
        self.compactions += other.compactions
        self.failures += other.failures


class _Batch:
    """Some histories in lockstep: the clients in Node, the servers here."""

    def __init__(self, node: NodeProcess, seeds: Sequence[int]) -> None:
        self._node = node
        self._seeds = seeds
        self._servers = [OfflineServer(random.Random(seed)) for seed in seeds]
        self._errors = [""] * len(seeds)
        self._deliveries: list[list[Message]] = [[] for _ in seeds]

    def play(self) -> Outcome:
        self._node.ask(b"".join(map(write_var_uint, (BEGIN, len(self._seeds), *self._seeds))))
        for _ in range(ROUNDS):
            self._round(ROUND)
            self._everywhere(OfflineServer.disturb)
        self._settle(SETTLE)
        self._check(is_last=False)
        self._everywhere(_come_back_compacted)
        self._settle(LATE)
        edits = self._check(is_last=True)
        outcome = Outcome(len(self._seeds), edits)
        for server in self._servers:
            outcome.taken += server.taken
            outcome.cut += server.cut
            outcome.crashes += server.crashes
            outcome.compactions += server.compactions
        outcome.failures = [(seed, error) for seed, error in zip(self._seeds, self._errors, strict=True) if error]
        return outcome

    def _everywhere(self, work: Callable[[OfflineServer], list[Message]]) -> None:
        """Do something with every server that has not failed; what clients are to be told is delivered with the next round."""
        for place, server in enumerate(self._servers):
            if not self._errors[place]:
                try:
                    self._deliveries[place] += work(server)
                except Exception:
                    self._errors[place] = traceback.format_exc()

    def _round(self, command: int) -> bool:
        """Deliver, let the clients act, and take what they send; tell whether anything was sent."""
        request = [write_var_uint(command)]
        for deliveries in self._deliveries:
            request.append(write_var_uint(len(deliveries)))
            for client, kind, payload in deliveries:
                request += (write_var_uint(client), write_var_uint(kind), var_bytes(payload))
        reader = Reader(self._node.ask(b"".join(request)))
        number = reader.read_var_uint
        sent = [
            [(number(), number(), reader.read_var_bytes()) for _ in range(number())] for _ in range(len(self._servers))
        ]
        self._deliveries = [[] for _ in self._servers]
        for place, (server, messages) in enumerate(zip(self._servers, sent, strict=True)):
            if not self._errors[place]:
                try:
                    self._deliveries[place] += server.tick(messages)
                except Exception:
                    self._errors[place] = traceback.format_exc()
        return any(sent) or any(self._deliveries)

    def _settle(self, first: int) -> None:
        """Connect, and go on until nobody has anything to say."""
        is_busy = self._round(first)
        for _ in range(MOST_SETTLING_ROUNDS):
            if not is_busy:
                return
            is_busy = self._round(SETTLE)
        for place, deliveries in enumerate(self._deliveries):
            if deliveries and not self._errors[place]:
                self._errors[place] = "the clients never come to rest"

    def _check(self, *, is_last: bool) -> int:
        """Have every form of the documents compared; return how many edits there were."""
        request = [write_var_uint(CHECK), write_var_uint(int(is_last))]
        for place, server in enumerate(self._servers):
            documents: list[tuple[str, list[bytes]]] = []
            if not self._errors[place]:
                try:
                    server.check_known()
                    documents = server.documents()
                except Exception:
                    self._errors[place] = traceback.format_exc()
            request.append(write_var_uint(len(documents)))
            for name, updates in documents:
                request += (var_string(name), write_var_uint(len(updates)), *map(var_bytes, updates))
        reader = Reader(self._node.ask(b"".join(request)))
        edits = 0
        for place in range(len(self._servers)):
            error = reader.read_var_string()
            edits += reader.read_var_uint()
            self._errors[place] = self._errors[place] or error
        return edits


def _come_back_compacted(server: OfflineServer) -> list[Message]:
    server.compact()
    return server.restart()


def play(seeds: Sequence[int]) -> Outcome:
    """Play histories, one of each seed, in batches, with a Node process of their own."""
    outcome = Outcome()
    with NodeProcess("differential.mjs") as node:
        for start in range(0, len(seeds), BATCH):
            outcome.add(_Batch(node, seeds[start : start + BATCH]).play())
    return outcome


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how many histories to play; history k has the seed `--seed` + k, so that one can be played alone."""
    parser.add_argument("--count", type=int, default=20_000, help="histories")
    parser.add_argument("--processes", type=int, default=2, help="pairs of processes, each of one core")


def run(arguments: argparse.Namespace) -> int:
    """Play, and print what was compared and what differed."""
    started = time.monotonic()
    seeds = range(arguments.seed, arguments.seed + arguments.count)
    chunks = [seeds[start : start + 5 * BATCH] for start in range(0, len(seeds), 5 * BATCH)]
    outcome = Outcome()
    with get_context("spawn").Pool(arguments.processes) as pool:
        for done, part in enumerate(pool.imap_unordered(play, chunks), 1):
            outcome.add(part)
            for seed, error in part.failures:
                print(f"history {seed}: {error}", flush=True)
            if done % 4 == 0:
                print(f"{outcome.histories} histories, {time.monotonic() - started:.0f} s", flush=True)
    print(
        f"{outcome.histories} histories, {outcome.edits} edits, {outcome.taken} updates taken, {outcome.cut} cut, "
        f"{outcome.crashes} restarts, {outcome.compactions} compactions: {len(outcome.failures)} differences, "
        f"{time.monotonic() - started:.0f} s"
    )
    return 1 if outcome.failures else 0
