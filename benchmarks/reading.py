"""Measure the readers of updates, compiled and in Python: `python -m benchmarks.reading`.

Prints microseconds of CPU for each update that live editing sends, also when a worker folds thousands of them into one,
and for a whole course; the least of several rounds.
"""

import sys
import time
from array import array
from collections.abc import Callable
from functools import partial
from typing import Final
from unittest.mock import patch

from benchmarks.edits import Author
from constructure_sync.protocol import known as known_module
from constructure_sync.protocol import short_updates, update_reader, update_writer
from constructure_sync.protocol.id_ranges import IdRanges
from constructure_sync.protocol.known import Known
from constructure_sync.protocol.lib0 import var_string, write_var_uint
from constructure_sync.protocol.readers import IMPLEMENTATION, ReadUpdate, close_short, close_whole, read_update
from constructure_sync.protocol.update_reader import DEFAULT_LIMITS, UpdateLimits

ROUNDS: Final = 7
CALLS: Final = 5_000
CLIENT: Final = 3_123_456_789
STRUCTS: Final = 2_000
FOLDED: Final = 4_096  # at most so many entries of a tail are folded at once


def _numbers(*numbers: int) -> bytes:
    return b"".join(map(write_var_uint, numbers))


def _document() -> Known:
    """A map in a root, with a value under a key, and a text, most of it written by this client."""
    known = Known()
    for update in (
        b"\x01" + _numbers(1, CLIENT, 0) + b"\x27\x01" + var_string("nodes") + var_string("n1") + b"\x01\x00",
        b"\x01" + _numbers(1, CLIENT, 1) + b"\x28\x00" + _numbers(CLIENT, 0) + var_string("x") + b"\x01\x7d\x05\x00",
        b"\x01" + _numbers(1, CLIENT, 2) + b"\x04\x01" + var_string("text") + var_string("w" * 900) + b"\x00",
    ):
        known.add(known.close(update))
    return known


def _knowledge(known: Known) -> tuple[dict[int, int], "dict[int, array[int]]", IdRanges, UpdateLimits]:
    return known.clocks, known.nesting, known.deletes, DEFAULT_LIMITS


def _shapes() -> dict[str, bytes]:
    head = b"\x01" + _numbers(1, CLIENT, 902)
    deleted = b"\x01" + _numbers(CLIENT, 1)
    number = b"\x01\x7b" + bytes(8)
    return {
        "a letter typed": head + b"\x84" + _numbers(CLIENT, 901) + var_string("a") + b"\x00",
        "a letter typed inside": head + b"\xc4" + _numbers(CLIENT, 300, CLIENT, 301) + var_string("a") + b"\x00",
        "a value replaced in a map": head + b"\xa8" + _numbers(CLIENT, 1) + number + deleted + _numbers(1, 1),
        "a map set in a map": head + b"\x27\x00" + _numbers(CLIENT, 0) + var_string("data") + b"\x01\x00",
        "some letters deleted": b"\x00" + deleted + _numbers(500, 3),
    }


def _whole_shapes() -> dict[str, bytes]:
    """What one transaction of several items makes, and what a client brings that comes back."""
    number, word = b"\x01\x7b" + bytes(8), b"\x01\x77" + var_string("some words")
    own, child = _numbers(CLIENT), b"\x00" + _numbers(CLIENT, 902)
    fields = [b"\x28" + child + var_string(f"field {place}") + word for place in range(8)]
    return {
        "two values replaced (a drag)": b"\x01"
        + _numbers(2, CLIENT, 902)
        + (b"\xa8" + _numbers(CLIENT, 1) + number) * 2
        + b"\x01"
        + own
        + _numbers(1, 1, 1),
        "a new node with 8 fields": b"\x01"
        + _numbers(9, CLIENT, 902)
        + b"\x27\x00"
        + _numbers(CLIENT, 0)
        + var_string("node")
        + b"\x01"
        + b"".join(fields)
        + b"\x00",
        "a word made bold": b"\x01"
        + _numbers(2, CLIENT, 902)
        + b"".join(
            b"\xc6" + _numbers(CLIENT, at, CLIENT, at + 1) + var_string("bold") + var_string(value)
            for at, value in ((300, "true"), (310, "null"))
        )
        + b"\x00",
        "20 edits made offline": b"\x01"
        + _numbers(20, CLIENT, 902)
        + b"".join(b"\xc4" + _numbers(CLIENT, at, CLIENT, at + 1) + var_string("abc") for at in range(300, 320))
        + b"\x01"
        + own
        + _numbers(3, 1, 1, 500, 3, 600, 9),
    }


def _course() -> bytes:
    """One update of many map values."""
    value = b"\x01\x77" + var_string("some words of a title")
    structs = [b"\x28\x01" + var_string("nodes") + var_string(f"node-{place}") + value for place in range(STRUCTS)]
    return b"\x01" + _numbers(STRUCTS, CLIENT, 0) + b"".join(structs) + b"\x00"


def _edits(authors: int) -> list[bytes]:
    """What so many authors type and set in turn: the tail that a worker folds."""
    writing = [Author(CLIENT + place) for place in range(authors)]
    return [writing[number % authors].edit(number) for number in range(FOLDED)]


def _read_all(reader: ReadUpdate, updates: list[bytes]) -> None:
    for update in updates:
        reader(update)


def _print_whole_updates() -> None:
    """Measure the strict reader, and the folding that rests on it."""
    course = _course()
    python = _microseconds(partial(update_reader.read_update, course), 5)
    native = _microseconds(partial(read_update, course), 5)
    print(f"{f'{STRUCTS} map values read':<34}{python:>10.0f}{native:>10.0f}")
    for authors in (2, 16):
        edits = _edits(authors)
        python = _microseconds(partial(_read_all, update_reader.read_update, edits), 1) / FOLDED
        native = _microseconds(partial(_read_all, read_update, edits), 1) / FOLDED
        print(f"{f'an edit of {authors} authors read':<34}{python:>10.2f}{native:>10.2f}")
        native = _microseconds(partial(update_writer.join_summarized, edits), 1) / FOLDED
        with patch.object(update_writer, "read_update", update_reader.read_update):
            python = _microseconds(partial(update_writer.join_summarized, edits), 1) / FOLDED
        print(f"{f'an edit of {authors} authors folded':<34}{python:>10.2f}{native:>10.2f}")


def _print_transactions(known: Known) -> None:
    """Measure what closes updates of several items, which in Python is the general way."""
    for name, update in _whole_shapes().items():
        if close_whole is None or close_whole(update, *_knowledge(known)) is None:
            raise AssertionError(f"{name} goes the general way")
        with patch.object(known_module, "read_update", update_reader.read_update):
            python = _microseconds(partial(known.close_fully, update), CALLS)
        native = _microseconds(partial(known.close, update), CALLS)
        print(f"{name:<34}{python:>10.2f}{native:>10.2f}")


def _microseconds(call: Callable[[], object], calls: int) -> float:
    """CPU time of one call: the least of some rounds."""
    least = float("inf")
    for _ in range(ROUNDS):
        started = time.process_time_ns()
        for _ in range(calls):
            call()
        least = min(least, (time.process_time_ns() - started) / calls / 1000)
    return least


def main() -> int:
    """Measure and print."""
    if IMPLEMENTATION == "python":
        print("the readers are not compiled; `python hatch_build.py` says why")
        return 1
    print(f"Python {sys.version.split()[0]}; microseconds of CPU per update")
    print(f"{'':<34}{'Python':>10}{'compiled':>10}")
    known = _document()
    for name, update in _shapes().items():
        arguments = (update, *_knowledge(known))
        if close_short(*arguments) is None:
            raise AssertionError(f"{name} goes the general way")
        python = _microseconds(partial(short_updates.close_short, *arguments), CALLS)
        native = _microseconds(partial(close_short, *arguments), CALLS)
        print(f"{name:<34}{python:>10.2f}{native:>10.2f}")
    _print_transactions(known)
    _print_whole_updates()
    return 0


if __name__ == "__main__":
    sys.exit(main())
