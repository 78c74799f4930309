"""What a room has taken and no commit holds yet, in the order of its history."""

from collections import deque
from collections.abc import Iterable
from itertools import islice

from constructure_sync.rooms.history import Entry


class Outbox:
    """Entries on their way into the log, each with its position in the history.

    They are taken from the front once a commit holds them. After a log has gone back (R9), entries that were saved before are
    offered again: they then stand here at the positions that they always had.
    """

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, Entry]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def size(self) -> int:
        """Bytes of all updates that wait."""
        return sum([entry.size for _, entry in self._waiting])

    @property
    def entries(self) -> list[Entry]:
        return [entry for _, entry in self._waiting]

    @property
    def oldest(self) -> Entry:
        """The entry that has waited longest; IndexError when none waits."""
        return self._waiting[0][1]

    def add(self, position: int, entry: Entry) -> None:
        """Let an entry wait for the next commit. position: its place in the history, not below those before it."""
        self._waiting.append((position, entry))

    def replace(self, waiting: Iterable[tuple[int, Entry]]) -> None:
        """Let exactly these wait."""
        self._waiting = deque(waiting)

    def from_position(self, position: int) -> list[tuple[int, Entry]]:
        """Return what waits from this position of the history on."""
        return [waiting for waiting in self._waiting if waiting[0] >= position]

    def saved_to(self, head: int) -> int:
        """Return the position before which everything is saved. head: of the history."""
        return self._waiting[0][0] if self._waiting else head

    def first(self, max_updates: int, max_bytes: int) -> list[Entry]:
        """Return the oldest entries within these bounds, at least one if there is any; they stay until `drop`."""
        entries: list[Entry] = []
        for _, entry in islice(self._waiting, max(1, max_updates)):
            max_bytes -= entry.size
            if entries and max_bytes < 0:
                break
            entries.append(entry)
        return entries

    def drop(self, count: int) -> None:
        """A commit holds the first `count` entries."""
        for _ in range(count):
            self._waiting.popleft()
