"""What clients of a room will send back: the awareness messages that it relayed, whole, so that an echo is told before decoding.

Stock y-websocket clients write every state that is new to them back, in one message for each that they get. With n clients a
state comes back n - 1 times, so this is nearly all that a lively room hears.
"""

from typing import Final

from constructure_sync.observability import PRESENCE_RECEIVED

_GENERATION_BYTES: Final = 512 * 1024
_GENERATION_SECONDS: Final = 60.0
_BYTES_OF_AN_OBJECT: Final = 100  # beside the bytes it holds: the object and its place in a set
_ECHOES: Final = PRESENCE_RECEIVED.labels("echo")


class Echoes:
    """Messages relayed lately. Pure: time is an argument.

    They are kept in two generations of limited size and age, of which the older one is forgotten whole: that costs nothing for
    each message, and a room that fell silent keeps nothing.
    """

    __slots__ = ("_began_at", "_heard", "_newer", "_older", "_size")

    def __init__(self) -> None:
        self._newer: set[bytes] = set()
        self._older: set[bytes] = set()
        self._size = 0  # of the newer
        self._began_at = 0.0
        self._heard = 0

    def hear(self, message: bytes) -> bool:
        """Tell whether a message is an echo, and count it if so."""
        if message in self._newer or message in self._older:
            self._heard += 1
            return True
        return False

    def expect(self, message: bytes) -> None:
        """Remember a message that is relayed."""
        if self._size > _GENERATION_BYTES:
            self._turn()
        if message not in self._newer:
            self._newer.add(message)
            self._size += len(message) + _BYTES_OF_AN_OBJECT

    def forget_old(self, now: float) -> None:
        """Forget what nobody sends back any more."""
        if now - self._began_at >= _GENERATION_SECONDS:
            self._began_at = now
            self._turn()

    def _turn(self) -> None:
        self._older, self._newer = self._newer, set()
        self._size = 0

    def report(self) -> None:
        """Add those heard since the last call to the metric, which is too slow to be told of each."""
        if self._heard:
            _ECHOES.inc(self._heard)
            self._heard = 0
