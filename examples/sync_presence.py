"""Who else is in a course: awareness as y-protocols writes it, and as much of it as a command line needs."""

import json
from typing import Any

from sync_client import Reader, var_bytes, write_var_uint

RENEW_SECONDS = 15.0  # the server forgets a state that was not renewed for 30 s
MAX_ENTRIES = 10_000


class Presence:
    """The states of those who are here. The server writes `user.id` and `user.name` into each; nobody can pose as another.

    client_id: that of the Yjs document, under which this client speaks.
    """

    def __init__(self, client_id: int) -> None:
        self._client_id = client_id
        self._clock = 0
        self._others: dict[int, dict[str, Any]] = {}

    def announce(self, state: dict[str, Any]) -> bytes:
        """Return the payload that tells this client's state, or renews it."""
        self._clock += 1
        content = json.dumps(state, ensure_ascii=False, separators=(",", ":")).encode()
        return write_var_uint(1) + write_var_uint(self._client_id) + write_var_uint(self._clock) + var_bytes(content)

    def receive(self, payload: bytes) -> bool:
        """Take the states of others; True when this client is to announce itself again. Raises Malformed.

        The server asks so, by saying that this client is gone, after either of the two was away: neighbours may remember a clock
        of it, and take nothing that is not later.
        """
        is_asked = False
        reader = Reader(payload)
        for _ in range(min(reader.var_uint(), MAX_ENTRIES)):
            client_id, clock, content = reader.var_uint(), reader.var_uint(), reader.var_bytes()
            if client_id == self._client_id:
                # The server may remember a later state of ours than this program does.
                self._clock = max(self._clock, clock)
                is_asked = is_asked or content == b"null"
                continue
            try:
                state = json.loads(content)
            except ValueError:
                continue
            if isinstance(state, dict):
                self._others[client_id] = state
            else:
                self._others.pop(client_id, None)
        return is_asked

    def forget_others(self) -> None:
        """Know of nobody: the line is gone."""
        self._others.clear()

    def names(self) -> list[str]:
        """Return the names of the others, each once, sorted."""
        users = [state.get("user") for state in self._others.values()]
        return sorted({str(user.get("name", "?")) for user in users if isinstance(user, dict)})
