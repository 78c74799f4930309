"""Where a room stands in its document's log, and what it has heard of what lies behind (R6, R9).

Every commit names the one before it, so a room takes the next only if it follows on what the room has. Whatever does not fit is
no reason to trust the bus or to distrust it: it is a reason to look at the log.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from constructure_sync.bus.contracts import Saved
from schemas.ids import CommitId, Seq
from storage.contracts import Appended, Head

MAX_WAITING: Final = 1_000
MAX_WAITING_BYTES: Final = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Next:
    """A commit that follows on what the room has. updates: in order; empty where they are the room's own."""

    head: Head
    updates: tuple[bytes, ...]


class LogPlace:
    """Pure: no clock, no I/O. head: everything up to here is in the history. newest: the newest commit that the room knows of.

    The newest lies beyond the head while others' commits between are still to come. must_look: what was heard cannot be right, or
    could not be kept, so only the log can tell.
    """

    __slots__ = ("_waiting", "_waiting_bytes", "head", "must_look", "newest")

    def __init__(self, head: Head) -> None:
        self.head = head
        self.newest = head
        self.must_look = False
        self._waiting: dict[Seq, Saved] = {}
        self._waiting_bytes = 0

    @property
    def has_hole(self) -> bool:
        """Whether something was heard that does not follow on the head, or whose updates did not travel."""
        return bool(self._waiting)

    @property
    def waits_for_own(self) -> bool:
        """Whether all that waits behind a hole are commits of the room itself."""
        return all(saved.updates == () for saved in self._waiting.values())

    @property
    def waiting(self) -> frozenset[Seq]:
        """The first Seqs of the commits that wait behind a hole."""
        return frozenset(self._waiting)

    def own(self, appended: Appended, commit: CommitId) -> None:
        """A commit of the room itself: its updates are in the history already."""
        self._keep(Saved(appended.first, appended.last, commit, appended.previous, ()))
        self._know(Head(appended.last, commit))

    def heard(self, saved: Saved) -> None:
        """Another instance's commit."""
        head = self.head
        if saved.updates is not None and len(saved.updates) != saved.last - saved.first + 1:
            self.must_look = True
            return
        if saved.last < head.seq or (saved.last == head.seq and saved.commit == head.commit):
            return
        if saved.first <= head.seq:
            if saved.commit != head.commit:
                self.must_look = True  # two commits say to have written the same Seq
                return
            # The log was read up to the middle of this commit.
            rest = None if saved.updates is None else saved.updates[head.seq + 1 - saved.first :]
            saved = Saved(Seq(head.seq + 1), saved.last, saved.commit, saved.commit, rest)
        self._keep(saved)

    def _keep(self, saved: Saved) -> None:
        size = sum(map(len, saved.updates or ()))
        if len(self._waiting) >= MAX_WAITING or self._waiting_bytes + size > MAX_WAITING_BYTES:
            self.must_look = True
            return
        if saved.last > self.head.seq and saved.first not in self._waiting:
            self._waiting[saved.first] = saved
            self._waiting_bytes += size

    def _know(self, head: Head) -> None:
        if head.seq > self.newest.seq:
            self.newest = head

    def next(self) -> Next | None:
        """Return the commit that follows on the head, if it was heard with its updates."""
        saved = self._waiting.get(Seq(self.head.seq + 1))
        if saved is None or saved.updates is None:
            return None
        # Only a commit of our own, tried again when the row before it was purged, does not know what it follows.
        if saved.previous != self.head.commit and (saved.previous is not None or saved.updates):
            self.must_look = True
            return None
        return Next(Head(saved.last, saved.commit), saved.updates)

    def move(self, head: Head) -> None:
        """Everything up to `head` is in the history now."""
        self.head = head
        self._know(head)
        self._drop(first for first in self._waiting if first <= head.seq)

    def refuse_next(self) -> None:
        """What was heard as the next commit cannot be taken: only the log can tell."""
        self._drop([Seq(self.head.seq + 1)])
        self.must_look = True

    def forget(self, firsts: Iterable[Seq], beyond: Seq) -> None:
        """Of the commits that begin at these Seqs, those beyond the log's end are not in the log."""
        self._drop(first for first in firsts if first > beyond)

    def _drop(self, firsts: Iterable[Seq]) -> None:
        for first in list(firsts):
            saved = self._waiting.pop(first, None)
            if saved is not None:
                self._waiting_bytes -= sum(map(len, saved.updates or ()))

    def start_at(self, head: Head) -> None:
        """The log is another than it was: forget what was heard of it."""
        self.head = self.newest = head
        self.must_look = False
        self._waiting.clear()
        self._waiting_bytes = 0
