"""Which of a connection's write messages are saved: the numbers behind `?ack=seq` (design §4)."""


class Receipts:
    """Counts a connection's write messages (Update, SyncStep2) and tells how many of the first are saved.

    A receipt speaks of *the first n* messages, so a message whose part was cut off for a gap holds back the later ones until the
    client has answered the SyncStep1 that the gap caused: then all that it can give is in the history.

    due: what waits, oldest first: [message number, position to be saved; -1 while a gap is open].
    """

    __slots__ = ("_has_gap", "counted", "due", "given")

    def __init__(self) -> None:
        self.counted = 0
        self.given = 0
        self.due: list[list[int]] = []  # empty, a list is a tenth of a deque
        self._has_gap = False

    def note(self, position: int, *, gap: bool = False) -> None:
        """Count one write message. position: the history's head after it was taken (also when it held nothing new: R11)."""
        self.counted += 1
        due = self.due
        if gap:
            self._has_gap, position = True, -1
        if due and due[-1][1] in (position, -1):
            due[-1][0] = self.counted  # behind an open gap nothing can be told anyway
        else:
            due.append([self.counted, position])

    def close_gaps(self, position: int) -> None:
        """The client has given what it can: messages that waited for a gap are due when `position` is saved."""
        if self._has_gap:
            self.due[-1][1] = position  # an open gap is always the last: whatever came behind it waits with it
            self._has_gap = False

    def saved(self, position: int) -> int:
        """Return how many of the first messages are saved now if that is more than was given before, else 0."""
        number = count = 0
        for last, due in self.due:
            if not 0 <= due <= position:
                break
            number = last
            count += 1
        if count:
            del self.due[:count]
        if number <= self.given:
            return 0
        self.given = number
        return number

    def withdraw(self, told: int, number: int, position: int) -> None:
        """Messages up to `number` were said to be saved, the client was told of `told`, and the rest is in doubt now.

        They are due again when `position` is saved, and the later ones not before them.
        """
        self.given = told
        for due in self.due:
            due[1] = max(due[1], position) if due[1] >= 0 else due[1]
        self.due.insert(0, [number, position])
