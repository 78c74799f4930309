"""A worker as its parent sees it, without a server: it notes what happens to it. Run as a program.

Arguments: how it behaves, the file of notes, then those that every worker gets.
serve: ready, ends when told. die3: ends at once, with words and this status.
stubborn: ends at the second signal. deaf: never ends by itself.
first2: serves if it is among the first two, else ends at once.
"""

import os
import signal
import socket
import sys
import time
from pathlib import Path
from types import FrameType


def main() -> None:
    behaviour, notes, descriptor = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    signals = 0

    def note(event: str) -> int:
        with notes.open("a") as file:
            file.write(f"{event} {os.getpid()}\n")
        return notes.read_text().count("started")

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal signals
        signals += 1
        note(signal.Signals(number).name)
        if behaviour != "deaf" and (behaviour != "stubborn" or signals > 1):
            sys.exit(0)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    line = socket.socket(fileno=descriptor)
    count = note("started")
    if behaviour.startswith("die") or (behaviour.startswith("first") and count > int(behaviour[5:])):
        line.sendall(b"no such thing")
        sys.exit(int(behaviour[3:]) if behaviour.startswith("die") else 3)
    line.sendall(b"ready")
    while said := line.recv(100):
        if said == b"retire\n":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            note("retiring")
            time.sleep(0.3)  # as long as it takes the parent, by far, to start another
            break
    note("retired" if said else "orphaned")


if __name__ == "__main__":
    main()
