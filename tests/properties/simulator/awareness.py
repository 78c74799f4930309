"""Presence of a stock client: `awareness.js` of y-protocols together with what y-websocket does with it."""

from collections.abc import Iterable

from constructure_sync.protocol.awareness import GONE, AwarenessEntry, decode_awareness, encode_awareness

_OUTDATED = 30.0
_RENEW = 15.0


class Awareness:
    """States and clocks of everyone a client knows. Each method returns the payload to broadcast, or None."""

    def __init__(self, client_id: int, now: float) -> None:
        self.client_id = client_id
        self.states: dict[int, bytes] = {}
        self._clocks: dict[int, tuple[int, float]] = {}
        self.set_local(b'{"user":{"color":"#30bced"}}', now)

    def set_local(self, state: bytes, now: float) -> bytes:
        clock, _ = self._clocks.get(self.client_id, (-1, 0.0))
        self.states[self.client_id] = state
        self._clocks[self.client_id] = (clock + 1, now)
        return self.encode((self.client_id,))

    def encode(self, clients: Iterable[int]) -> bytes:
        """Return these clients' states as a payload."""
        return encode_awareness(AwarenessEntry(c, self._clocks[c][0], self.states.get(c, GONE)) for c in clients)

    def apply(self, payload: bytes, now: float) -> bytes | None:
        """Take a payload; y-websocket broadcasts whatever changed, whoever it came from."""
        changed = [entry.client_id for entry in decode_awareness(payload) if self._take(entry, now)]
        return self.encode(changed) if changed else None

    def _take(self, entry: AwarenessEntry, now: float) -> bool:
        client, clock, is_gone = entry.client_id, entry.clock, entry.state == GONE
        known, _ = self._clocks.get(client, (0, 0.0))
        if not (known < clock or (known == clock and is_gone and client in self.states)):
            return False
        is_new = client not in self._clocks
        if not is_gone:
            self.states[client] = entry.state
        elif client == self.client_id:
            clock += 1
        else:
            self.states.pop(client, None)
        self._clocks[client] = (clock, now)
        return not (is_new and is_gone)

    def forget_others(self) -> None:
        """The socket has ended: nobody else is here, but their clocks stay in mind."""
        self.states = {self.client_id: self.states[self.client_id]}

    def check(self, now: float) -> bytes | None:
        """What the client does every three seconds: renew itself, drop who was not renewed."""
        changed = []
        if now - self._clocks[self.client_id][1] >= _RENEW:
            self.set_local(self.states[self.client_id], now)
            changed.append(self.client_id)
        for client in [c for c in self.states if c != self.client_id and now - self._clocks[c][1] >= _OUTDATED]:
            del self.states[client]
            changed.append(client)
        return self.encode(changed) if changed else None
