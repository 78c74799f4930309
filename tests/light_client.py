"""A light y-protocols client: hundreds fit into one process. It stays connected as stock providers do, asks for receipts, and knows
which of its edits were acknowledged and how long it was ever away.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from picows import WSError, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect
from pycrdt import Doc, Map, MapEvent, TransactionEvent

from constructure_sync.protocol.lib0 import Reader
from constructure_sync.protocol.messages import sync_step1, sync_step2, update_message
from constructure_sync.protocol.state_vector import decode_state_vector

EDITS: Final = "edits"
LATEST: Final = "latest"
_SHARED_KEYS: Final = 4
_OVERWRITE_EACH: Final = 8
_FIRST_DELAY, _LONGEST_DELAY = 0.1, 2.5  # seconds before another attempt, as y-websocket waits
_HANDSHAKE_SECONDS: Final = 10.0
_MAX_FRAME_BYTES: Final = 64 * 1024 * 1024
_SYNC, _RECEIPT = 0, 120
_STEP1, _STEP2 = 0, 1
_PERMANENT: Final = range(4400, 4500)
_ENDED: Final = (OSError, TimeoutError, WSError)

Arrival = Callable[["LightClient", str], None]


class LightClient:
    """Makes edits `name.1`, `name.2` …, each a key of its own in the map `edits`; some also overwrite a shared key, which refers to
    a neighbour's struct.

    address: gives the URL of the next attempt; `url` is that of the latest. on_arrival: called with the client and the key of every
    edit of others, as it arrives. times: when each edit was made, the first at place 0 (monotonic). spells: seconds from each loss
    of the line until the client was synced again. refused: attempts that failed since the client was last synced.
    faults: permanent closes, and messages that could not be taken.
    """

    def __init__(
        self, name: str, address: Callable[[], str], randomness: random.Random, on_arrival: Arrival | None = None
    ) -> None:
        self.name = name
        self.url = ""
        self.acknowledged = 0
        self.times: list[float] = []
        self.spells: list[float] = []
        self.refused = 0
        self.faults: list[str] = []
        self.is_synced = False
        self.doc: Doc[Map[str]] = Doc()
        self.edits = self.doc.get(EDITS, type=Map[str])
        self._latest = self.doc.get(LATEST, type=Map[str])
        self._address = address
        self._randomness = randomness
        self._on_arrival = on_arrival
        self._update: bytes | None = None
        self._doc_observation = self.doc.observe(self._observe)
        self._edits_observation = None if on_arrival is None else self.edits.observe(self._arrived)
        self._transport: WSTransport | None = None
        self._sent = 0  # write messages on the present socket
        self._waiting: deque[tuple[int, int]] = deque()  # (number of the write message, last edit that it holds)
        self._lost_at: float | None = None

    @property
    def made(self) -> int:
        """Edits made so far."""
        return len(self.times)

    @property
    def in_flight(self) -> int:
        """Edits made and not acknowledged."""
        return self.made - self.acknowledged

    @property
    def is_saved(self) -> bool:
        """Whether all that was written on the present line has its receipt."""
        return self.is_synced and not self._waiting

    @property
    def away_since(self) -> float | None:
        """When the line was lost that is not replaced yet; None while synced, and before the first sync."""
        return self._lost_at

    def is_on(self, port: int) -> bool:
        """Whether the client is synced through this loopback port."""
        return self.is_synced and f":{port}/" in self.url

    def acknowledged_keys(self) -> list[str]:
        """Return the keys of the edits for which there was a receipt."""
        return [f"{self.name}.{number}" for number in range(1, self.acknowledged + 1)]

    def has_all_of(self, other: "LightClient", made: int) -> bool:
        """Whether the first `made` edits of another are here: they come in order, so the last of them tells."""
        return made == 0 or f"{other.name}.{made}" in self.edits

    def state(self) -> dict[int, int]:
        """Return the state vector."""
        return decode_state_vector(self.doc.get_state())

    def content(self) -> tuple[dict[str, str], dict[str, str]]:
        """Return what the two maps hold."""
        return self.edits.to_py() or {}, self._latest.to_py() or {}

    def edit(self) -> None:
        """Make the next edit; it leaves at once when there is a line, else with the next answer to the server's question."""
        self.times.append(time.monotonic())
        key = f"{self.name}.{self.made}"
        with self.doc.transaction():
            self.edits[key] = "x" * self._randomness.randint(1, 40)
            if self._randomness.randrange(_OVERWRITE_EACH) == 0:
                self._latest[str(self._randomness.randrange(_SHARED_KEYS))] = key
        update, self._update = self._update, None
        if update is not None and self._transport is not None:
            self._write(update_message(update))

    def convey(self, update: bytes) -> None:
        """Take an update that was made elsewhere, and write it; `is_saved` tells when it is saved."""
        self.doc.apply_update(update)
        self._update = None
        if self._transport is not None:
            self._write(update_message(update))

    def drop(self) -> None:
        """Lose the line without a word, as a lost network does; the client comes back by itself."""
        if self._transport is not None:
            self._transport.disconnect(graceful=False)

    def stop_observing(self) -> None:
        """Let go of the document: an observed one is never freed."""
        self.doc.unobserve(self._doc_observation)
        if self._edits_observation is not None:
            self.edits.unobserve(self._edits_observation)

    async def stay(self) -> None:
        """Be connected, for ever: come back after every end."""
        try:
            while True:
                try:
                    await self._connect_once()
                except _ENDED:
                    self.refused += 1
                await asyncio.sleep(min(_FIRST_DELAY * 2 ** min(self.refused, 10), _LONGEST_DELAY))
        finally:
            self.drop()

    async def _connect_once(self) -> None:
        self.url = self._address()
        transport, _ = await ws_connect(
            lambda: _Line(self),
            self.url,
            websocket_handshake_timeout=_HANDSHAKE_SECONDS,
            max_frame_size=_MAX_FRAME_BYTES,
        )
        await transport.wait_disconnected()

    # ------------------------------------------------------------------ from the line

    def opened(self, transport: WSTransport) -> None:
        """A new line is there: ask for what is missing."""
        self._transport, self._sent = transport, 0
        self._waiting.clear()
        transport.send(WSMsgType.BINARY, sync_step1(self.doc.get_state()))

    def lost(self, transport: WSTransport) -> None:
        """A line has ended."""
        if self._transport is not transport:
            return
        self._transport = None
        if self.is_synced:
            self._lost_at = time.monotonic()
        self.is_synced = False

    def received(self, message: bytes) -> None:
        """Take one message of the server."""
        reader = Reader(message)
        kind = reader.read_var_uint()
        if kind == _RECEIPT:
            self._take_receipt(reader.read_var_uint())
        elif kind == _SYNC:
            step, payload = reader.read_var_uint(), reader.read_var_bytes()
            if step == _STEP1:
                self._write(sync_step2(self.doc.get_update(payload)))
                return
            self.doc.apply_update(payload)
            self._update = None
            if step == _STEP2 and not self.is_synced:
                self._synced()

    def _write(self, message: bytes) -> None:
        """Send one write message: they are numbered in the order in which they leave."""
        assert self._transport is not None
        self._sent += 1
        self._waiting.append((self._sent, self.made))
        self._transport.send(WSMsgType.BINARY, message)

    def _synced(self) -> None:
        self.is_synced, self.refused = True, 0
        if self._lost_at is not None:
            self.spells.append(time.monotonic() - self._lost_at)
            self._lost_at = None

    def _take_receipt(self, number: int) -> None:
        while self._waiting and self._waiting[0][0] <= number:
            self.acknowledged = max(self.acknowledged, self._waiting.popleft()[1])

    def _observe(self, event: TransactionEvent) -> None:
        self._update = event.update

    def _arrived(self, event: MapEvent) -> None:
        assert self._on_arrival is not None
        for key in event.keys:  # type: ignore[attr-defined]
            if not key.startswith(f"{self.name}."):
                self._on_arrival(self, key)


class _Line(WSListener):
    """One socket of a client."""

    def __init__(self, client: LightClient) -> None:
        super().__init__()
        self._client = client

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._client.opened(transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        payload = frame.get_payload_as_bytes()
        if frame.msg_type == WSMsgType.CLOSE:
            if int.from_bytes(payload[:2], "big") in _PERMANENT:
                self._client.faults.append(f"closed: {payload!r}")
            transport.send_close(frame.get_close_code())
            transport.disconnect()
        elif frame.msg_type == WSMsgType.BINARY:
            try:
                self._client.received(payload)
            except Exception as error:
                self._client.faults.append(f"{error!r} over {payload[:100]!r}")
                raise

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self._client.lost(transport)
