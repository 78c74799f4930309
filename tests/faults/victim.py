"""A process that may be lost: it applies updates to fresh pycrdt documents and says, one by one, what became of them.

The parent gives a table of foundations (updates each) and batches of (foundation, update). A byte comes back for each; when the
process dies, the number of bytes tells at which update.
"""

import os
import pickle
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import IO, Any, Final, Self

from pycrdt import Doc

OK, PANIC, REFUSED, RELOAD_FAILED, DIED = range(5)
NAMES: Final = ("taken", "panicked", "refused by pycrdt", "cannot be loaded again", "killed the process or held it up")
_MEMORY_BYTES: Final = 3 * 1024**3
_SECONDS_EACH: Final = 5.0

Foundation = list[bytes]
Question = tuple[int, bytes]


class Victim:
    """Starts the process, and starts another one whenever it dies. A context manager."""

    def __init__(self, foundations: Sequence[Foundation]) -> None:
        self._foundations = list(foundations)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def ask(self, questions: Sequence[Question]) -> list[int]:
        """Return what became of each update."""
        outcomes: list[int] = []
        while len(outcomes) < len(questions):
            process = self._process or self._start()
            assert process.stdin is not None
            assert process.stdout is not None
            left = list(questions[len(outcomes) :])
            _write(process.stdin, left)
            answered = process.stdout.read(len(left))
            outcomes += answered
            if len(answered) < len(left):
                outcomes.append(DIED)
                self._end()
        return outcomes

    def _start(self) -> "subprocess.Popen[bytes]":
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.victim"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # pycrdt prints every panic there
        )
        assert self._process.stdin is not None
        _write(self._process.stdin, self._foundations)
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            assert process.stdout is not None
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()


def _write(sink: IO[bytes], value: object) -> None:
    try:
        pickle.dump(value, sink)
        sink.flush()
    except BrokenPipeError:
        pass  # it died over what came before, and its answers end there


def outcome_of(foundation: Foundation, update: bytes) -> int:
    """Apply, save and load again; tell at what it failed. Showing is left out: pycrdt cannot show an XML type in a map at all."""
    document: Doc[Any] = Doc()
    stage = REFUSED
    try:
        for part in (*foundation, update):
            document.apply_update(part)
        stage = RELOAD_FAILED
        document.get_state()
        again: Doc[Any] = Doc()
        again.apply_update(document.get_update())
    except Exception:
        return stage
    except BaseException as error:
        if type(error).__name__ == "PanicException":  # of pyo3, without a public import
            return PANIC
        raise
    return OK


def main() -> None:
    """Answer until the parent hangs up."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    source = sys.stdin.buffer
    foundations: list[Foundation] = pickle.load(source)
    while True:
        signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            questions: list[Question] = pickle.load(source)
        except EOFError:
            return
        for foundation, update in questions:
            signal.setitimer(signal.ITIMER_REAL, _SECONDS_EACH)  # its signal ends the process
            os.write(1, bytes((outcome_of(foundations[foundation], update),)))


if __name__ == "__main__":
    main()
