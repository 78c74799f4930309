"""Who is present in a room. Never stored; an entry is owned by one connection of one instance, and only its owner removes it (R8).

Stock y-websocket clients send every state they receive back. So a message that was relayed lately is dropped by its bytes, and
entries of ids that another connection owns are ignored silently (interleavings 6).

Each instance announces to the others what its own connections say, and never what it heard itself: so nothing goes round. A client
that changes its instance takes its entry along by the first newer clock; what its old instance says of it later counts no more.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from constructure_sync.bus.contracts import InstanceId, PresenceEntry
from constructure_sync.errors import ProtocolViolation
from constructure_sync.observability import LIMIT_REACHED, PRESENCE_RECEIVED
from constructure_sync.protocol.awareness import GONE, AwarenessEntry, decode_awareness, encode_awareness, stamp_user
from constructure_sync.protocol.closes import RATE, TOO_LARGE
from constructure_sync.protocol.messages import awareness_message
from constructure_sync.rooms.echoes import Echoes
from constructure_sync.rooms.limits import RoomLimits
from schemas.ids import UserId

_FRAME_BYTES = (
    32 * 1024
)  # of one relayed payload: stock clients echo it whole, and it must then pass our own frame limit
_MOST_AUTHORS = (
    8  # of one payload, up to which the echo of each of them, who leaves itself out, is expected by its bytes
)
_REMEMBERED_GONE = 4096
_REMEMBERED_RETURNS = 4096
_GONE_SECONDS = 120.0
_MOST_PRESENT = 50_000
ROLL_CALL_SECONDS = 1.0

_TAKEN = PRESENCE_RECEIVED.labels("taken")
_DEFERRED = PRESENCE_RECEIVED.labels("deferred")
_FOREIGN = PRESENCE_RECEIVED.labels("foreign")


@dataclass(slots=True, eq=False)
class Attendee:
    """A connection, as its presence sees it.

    number: by order of arrival. tokens: own entries that it may still have relayed at once.
    """

    number: int
    user_id: UserId
    user_name: str
    tokens: float
    refilled_at: float
    ids: tuple[int, ...] = ()
    has_spoken: bool = False

    def own(self, client_id: int) -> None:
        """Have an entry that it speaks for; there are few of them."""
        if client_id not in self.ids:
            self.ids = (*self.ids, client_id)

    def disown(self, client_id: int) -> None:
        """Have such an entry no longer, if it was there."""
        self.ids = tuple([each for each in self.ids if each != client_id])


@dataclass(frozen=True, slots=True)
class _Elsewhere:
    """A connection of another instance."""

    instance: InstanceId
    connection: int
    user_id: UserId


@dataclass(slots=True)
class _Present:
    entry: AwarenessEntry
    owner: Attendee | _Elsewhere
    renewed_at: float


@dataclass(slots=True)
class _Gone:
    clock: int
    owner: Attendee | _Elsewhere
    at: float


class Presence:
    """The awareness entries of one room. Pure: time is an argument, what is to be sent is returned.

    instance: the one that the room is on.
    """

    def __init__(self, limits: RoomLimits, instance: InstanceId = 0) -> None:
        self._limits = limits
        self._instance = instance
        self._present: dict[int, _Present] = {}
        self._gone: OrderedDict[int, _Gone] = OrderedDict()
        self._echoes = Echoes()
        self._changed: dict[int, None] = {}
        self._deferred: dict[int, Attendee] = {}
        self._unannounced: dict[int, Attendee] = {}
        self._arrivals = 0
        self._returned: OrderedDict[_Elsewhere, None] = OrderedDict()
        self._must_call_roll = False
        self._must_tell_roll_call = False
        self._roll_called_at = -ROLL_CALL_SECONDS

    def __len__(self) -> int:
        return len(self._present)

    @property
    def has_changes(self) -> bool:
        return bool(self._changed)

    @property
    def has_deferred(self) -> bool:
        """Whether entries wait because their connection is over its rate: call `release_deferred` a moment later."""
        return bool(self._deferred)

    def attend(self, user_id: UserId, user_name: str, now: float) -> Attendee:
        """Return the place of a new connection."""
        self._arrivals += 1
        return Attendee(self._arrivals, user_id, user_name, float(self._limits.awareness_per_second), now)

    def is_echo(self, attendee: Attendee, message: bytes) -> bool:
        """Tell whether an undecoded awareness message is one that was relayed lately: it changes nothing and is not received.

        A connection's first words are always read: a client that is back may say just what was relayed of it before.
        """
        return attendee.has_spoken and self._echoes.hear(message)

    def receive(self, attendee: Attendee, payload: bytes, now: float) -> bytes | None:
        """Take a payload from a connection; return a payload for that connection alone, or None.

        The answer is the null of its own id, at the clock that it greeted with: y-protocols then announces itself again with a
        higher one at once, so that neighbours who remember the old clock see it without waiting for its next renewal, after a
        blip as after a restart of the server. Raises ProtocolViolation for malformed, oversized or flooding presence.
        """
        entries = decode_awareness(payload)
        is_greeting = not attendee.has_spoken and len(entries) == 1
        attendee.has_spoken = True
        answers = [answer for entry in entries if (answer := self._take(attendee, entry, is_greeting, now))]
        return encode_awareness(answers) if answers else None

    def _take(self, attendee: Attendee, entry: AwarenessEntry, is_greeting: bool, now: float) -> AwarenessEntry | None:
        owner = attendee
        present = self._present.get(entry.client_id)
        if present is None:
            gone = self._gone.get(entry.client_id)
            if entry.state == GONE:
                return None
            if gone is not None and entry.clock <= gone.clock:
                if gone.owner.user_id != attendee.user_id:
                    return None
                self._someone_is_back()
                return AwarenessEntry(entry.client_id, gone.clock, GONE)
            if len(attendee.ids) >= self._limits.awareness_ids:
                LIMIT_REACHED.labels("awareness_ids").inc()
                return None
        elif present.owner is not attendee:
            if not self._may_speak_for(attendee, entry, present, is_greeting):
                _FOREIGN.inc()
                return None
            if isinstance(present.owner, _Elsewhere) or attendee.number > present.owner.number:
                if is_greeting:
                    self._someone_is_back()
            else:
                owner = present.owner  # two sockets of one client: the end of the older one must not remove it
        elif entry.clock < present.entry.clock or (entry.clock == present.entry.clock and entry.state != GONE):
            return None
        self._store(attendee, owner, entry, now)
        if present is not None and present.owner is not owner:
            _disown(present.owner, entry.client_id)
        return AwarenessEntry(entry.client_id, entry.clock, GONE) if is_greeting and entry.state != GONE else None

    def _someone_is_back(self) -> None:
        self._must_call_roll = self._must_tell_roll_call = True

    def must_call_roll(self, now: float) -> None:
        """Another instance has called the roll, or will be seen to: call it here too, unless that has just been done.

        Whoever comes back a moment after a roll call knows no clock as new as those that it brought.
        """
        if now - self._roll_called_at >= ROLL_CALL_SECONDS / 2:
            self._must_call_roll = True

    def take_roll_call(self) -> bool:
        """Tell, once, whether the roll is called because of someone on this instance: the others are then to call it too."""
        must_tell, self._must_tell_roll_call = self._must_tell_roll_call, False
        return must_tell

    def call_roll(self, now: float) -> bool:
        """Tell whether everyone should be asked to announce themselves again: someone has come back, with old clocks in mind.

        A client forgets its neighbours' states when its socket ends, but not their clocks, so it takes none of them again at the
        same clock. At most once in a while; `roll_call_waits` tells of one that is still to come.
        """
        if not self._must_call_roll or now - self._roll_called_at < ROLL_CALL_SECONDS:
            return False
        self._must_call_roll = False
        self._roll_called_at = now
        return True

    @property
    def roll_call_waits(self) -> bool:
        return self._must_call_roll

    def own_nulls(self, attendee: Attendee) -> bytes | None:
        """Return the nulls of what this connection owns, for itself alone; None when it owns nothing."""
        present = [self._present[client_id].entry for client_id in attendee.ids if client_id in self._present]
        return encode_awareness([AwarenessEntry(e.client_id, e.clock, GONE) for e in present]) if present else None

    def _may_speak_for(self, attendee: Attendee, entry: AwarenessEntry, present: _Present, is_greeting: bool) -> bool:
        """Any socket of the same user may, and the newest takes over the id; its first words may repeat the clock it had before."""
        if present.owner.user_id != attendee.user_id or entry.state == GONE:
            return False
        return entry.clock > present.entry.clock or (is_greeting and entry.clock == present.entry.clock)

    def _store(self, attendee: Attendee, owner: Attendee, entry: AwarenessEntry, now: float) -> None:
        if len(entry.state) > self._limits.awareness_entry_bytes:
            LIMIT_REACHED.labels("awareness_bytes").inc()
            raise ProtocolViolation("an awareness state is too large", TOO_LARGE)
        is_late = self._is_over_rate(attendee, now)
        if entry.state == GONE:
            self._remove(entry.client_id, entry.clock, attendee, now)
            attendee.disown(entry.client_id)
        else:
            entry.state = stamp_user(entry.state, str(attendee.user_id), attendee.user_name)
            self._present[entry.client_id] = _Present(entry, owner, now)
            self._gone.pop(entry.client_id, None)
            owner.own(entry.client_id)
        if is_late:
            self._deferred[entry.client_id] = owner
            _DEFERRED.inc()
        else:
            self._changed_here(entry.client_id, owner)
            _TAKEN.inc()

    def _is_over_rate(self, attendee: Attendee, now: float) -> bool:
        rate = self._limits.awareness_per_second
        attendee.tokens = min(float(rate), attendee.tokens + (now - attendee.refilled_at) * rate) - 1
        attendee.refilled_at = now
        if attendee.tokens <= -10 * rate:
            LIMIT_REACHED.labels("awareness_flood").inc()
            raise ProtocolViolation("presence changes far too often", RATE)
        if attendee.tokens < 0:
            LIMIT_REACHED.labels("awareness_rate").inc()
            return True
        return False

    def _changed_here(self, client_id: int, owner: Attendee) -> None:
        self._changed[client_id] = None
        self._unannounced[client_id] = owner

    def _remove(self, client_id: int, clock: int, owner: Attendee | _Elsewhere, now: float) -> None:
        self._present.pop(client_id, None)
        self._gone[client_id] = _Gone(clock, owner, now)
        self._gone.move_to_end(client_id)
        if len(self._gone) > _REMEMBERED_GONE:
            self._gone.popitem(last=False)

    def leave(self, attendee: Attendee, now: float) -> None:
        """Remove what this connection owns; what the user's newer socket took over stays."""
        for client_id in attendee.ids:
            present = self._present.get(client_id)
            if present is not None and present.owner is attendee:
                self._remove(client_id, present.entry.clock, attendee, now)
                self._changed_here(client_id, attendee)
        attendee.ids = ()
        self._echoes.report()

    def expire(self, now: float) -> None:
        """Remove entries that were not renewed in time, and forget what no client can still echo."""
        limit = now - self._limits.presence_timeout
        for client_id, present in [(c, p) for c, p in self._present.items() if p.renewed_at <= limit]:
            self._remove(client_id, present.entry.clock, present.owner, now)
            if isinstance(present.owner, Attendee):
                present.owner.disown(client_id)
                self._changed_here(client_id, present.owner)
            else:
                self._changed[client_id] = None
        while self._gone and next(iter(self._gone.values())).at <= now - _GONE_SECONDS:
            self._gone.popitem(last=False)
        self._echoes.forget_old(now)
        self._echoes.report()

    def release_deferred(self) -> None:
        """Let entries that waited for their rate be relayed with the next changes."""
        for client_id, owner in self._deferred.items():
            self._changed_here(client_id, owner)
        self._deferred.clear()

    # ------------------------------------------------------------------ other instances

    def take_elsewhere(self, instance: InstanceId, entries: Sequence[PresenceEntry], now: float) -> None:
        """Take what another instance announces of its own connections; what is new is told with the next changes."""
        if instance == self._instance:
            return
        for each in entries:
            self._take_elsewhere(_Elsewhere(instance, each.connection, each.user_id), each.entry, now)

    def _take_elsewhere(self, owner: _Elsewhere, entry: AwarenessEntry, now: float) -> None:
        if entry.state == GONE:
            self._gone_elsewhere(owner, entry, now)
            return
        present, gone = self._present.get(entry.client_id), self._gone.get(entry.client_id)
        if present is not None:
            # Nobody takes another user's id, and only what is newer counts.
            if present.owner.user_id != owner.user_id or entry.clock <= present.entry.clock:
                return
            self._see_return(present.owner, owner, now)
            _disown(present.owner, entry.client_id)
        elif gone is not None:
            if entry.clock >= gone.clock:
                self._see_return(gone.owner, owner, now)
            if entry.clock <= gone.clock:
                return
        elif len(self._present) >= _MOST_PRESENT:
            LIMIT_REACHED.labels("awareness_present").inc()
            return
        self._present[entry.client_id] = _Present(entry, owner, now)
        self._gone.pop(entry.client_id, None)
        self._changed[entry.client_id] = None

    def _see_return(self, before: Attendee | _Elsewhere, owner: _Elsewhere, now: float) -> None:
        """A client that had another connection before has those clocks of its neighbours in mind that they had then."""
        if before != owner and before.user_id == owner.user_id and owner not in self._returned:
            # Once for each connection: a client that has two of them at a time speaks over both in turn.
            self._returned[owner] = None
            if len(self._returned) > _REMEMBERED_RETURNS:
                self._returned.popitem(last=False)
            self.must_call_roll(now)

    def _gone_elsewhere(self, owner: _Elsewhere, entry: AwarenessEntry, now: float) -> None:
        present = self._present.get(entry.client_id)
        if present is None:
            gone = self._gone.get(entry.client_id)
            if gone is None or gone.clock < entry.clock:
                # What it says of that client may still come: out of order.
                self._remove(entry.client_id, entry.clock, owner, now)
        elif present.owner == owner:
            if entry.clock >= present.entry.clock:
                self._remove(entry.client_id, entry.clock, owner, now)
                self._changed[entry.client_id] = None
        elif isinstance(present.owner, Attendee) and entry.clock >= present.entry.clock:
            # It was there before, and others believe now that it is gone: it has to announce itself with a higher clock.
            self.must_call_roll(now)

    def take_announcements(self) -> list[PresenceEntry]:
        """Return what connections of this instance have said since the last call, to be published."""
        unannounced, self._unannounced = self._unannounced, {}
        announcements = []
        for client_id, owner in unannounced.items():
            present, gone = self._present.get(client_id), self._gone.get(client_id)
            if present is not None and isinstance(present.owner, Attendee):
                announcements.append(_announcement(present.owner, present.entry))
            elif present is None and gone is not None:
                announcements.append(_announcement(owner, AwarenessEntry(client_id, gone.clock, GONE)))
        return announcements

    def own_announcements(self) -> list[PresenceEntry]:
        """Return everything that connections of this instance have said, for an instance that knows of nobody."""
        return [
            _announcement(present.owner, present.entry)
            for present in self._present.values()
            if isinstance(present.owner, Attendee)
        ]

    # ------------------------------------------------------------------ what is told

    def take_changes(self) -> list[bytes]:
        """Return the payloads that tell everyone what changed since the last call; mostly one."""
        if not self._changed:
            return []
        changed, self._changed = self._changed, {}
        chunks = self._chunks(changed)
        for chunk in chunks:
            if 1 < len(chunk) <= _MOST_AUTHORS:
                for author in range(len(chunk)):
                    self._payload(chunk[:author] + chunk[author + 1 :])
        return [self._payload(chunk) for chunk in chunks]

    def everyone(self) -> list[bytes]:
        """Return the payloads that tell a newcomer who is present; empty when nobody is."""
        return [self._payload(chunk) for chunk in self._chunks(self._present)]

    def everyone_and_gone(self) -> list[bytes]:
        """Return the payloads that bring up to date a connection that missed changes while it was congested."""
        return [self._payload(chunk) for chunk in self._chunks([*self._gone, *self._present])]

    def _chunks(self, client_ids: Iterable[int]) -> list[list[AwarenessEntry]]:
        """Return what is known of these clients, by the payload that is to hold it."""
        chunks, chunk, size = [], list[AwarenessEntry](), 0
        for client_id in client_ids:
            entry = self._entry(client_id)
            if entry is None:
                continue
            if chunk and size + len(entry.state) > _FRAME_BYTES:
                chunks.append(chunk)
                chunk, size = [], 0
            chunk.append(entry)
            size += len(entry.state) + 24
        return [*chunks, chunk] if chunk else chunks

    def _entry(self, client_id: int) -> AwarenessEntry | None:
        present = self._present.get(client_id)
        if present is not None:
            return present.entry
        gone = self._gone.get(client_id)
        return None if gone is None else AwarenessEntry(client_id, gone.clock, GONE)

    def _payload(self, entries: list[AwarenessEntry]) -> bytes:
        """Return the payload of these entries, whose echo is expected from now on."""
        payload = encode_awareness(entries)
        self._echoes.expect(awareness_message(payload))
        return payload


def _disown(owner: Attendee | _Elsewhere, client_id: int) -> None:
    if isinstance(owner, Attendee):
        owner.disown(client_id)


def _announcement(owner: Attendee, entry: AwarenessEntry) -> PresenceEntry:
    return PresenceEntry(owner.number, owner.user_id, entry)
