"""What crosses the bus, and what the rooms need of it. One suite in tests/contracts runs over every bus.

BU1  `publish` and `tell_all` never block and never raise: what cannot be sent is counted and lost. Bytes that wait to be sent are
     bounded; beyond the bound the oldest are lost.
BU2  What an instance publishes does not come back to it. What others publish is heard by whoever is subscribed to its document, at
     most rarely not at all, twice, or out of order.
BU3  When `subscribe` has returned True, whatever is published from then on is heard. False: the bus is away; the subscription is
     made as soon as it is back.
BU4  When messages may have been lost (a connection that broke, a subscription made anew, a full buffer), every subscriber whose
     messages they may have been is told by `missed`.
BU5  Subscribers are called on the loop, one at a time; what they raise is logged and harms nobody else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from constructure_sync.protocol.awareness import AwarenessEntry
from schemas.ids import CommitId, CourseId, DocumentId, Seq, SessionId, UserId

InstanceId = int
"""Random number up to 2^53-1 that an instance gives itself at its start."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A commit to one document: updates first..last, all of `commit`, behind the update that `previous` wrote.

    updates: in order; None where they are too large to travel: whoever needs them reads the log. previous: None when unknown.
    """

    first: Seq
    last: Seq
    commit: CommitId
    previous: CommitId | None
    updates: tuple[bytes, ...] | None


@dataclass(frozen=True, slots=True)
class PresenceEntry:
    """What one connection of the sending instance says of one client id. A state of `null`: it is gone."""

    connection: int
    user_id: UserId
    entry: AwarenessEntry


@dataclass(frozen=True, slots=True)
class PresenceChanged:
    """Presence of connections of the sending instance, as it is now (R8)."""

    entries: Sequence[PresenceEntry]


@dataclass(frozen=True, slots=True)
class PresenceAsked:
    """The sender has opened the document and knows of nobody: everyone tells what their own connections have said."""


@dataclass(frozen=True, slots=True)
class RollCalled:
    """Someone has come back with old clocks in mind: everyone has their own connections announce themselves again."""


DocumentMessage = Saved | PresenceChanged | PresenceAsked | RollCalled


@dataclass(frozen=True, slots=True)
class RightsChanged:
    """The rights over a course, or the life of a sign-in, have changed: open sockets are judged anew."""

    of: CourseId | SessionId


@dataclass(frozen=True, slots=True)
class Invalidated:
    """Something that instances may have cached is no longer so. kind: a short word of the cache, such as "course"."""

    kind: str
    id: UUID


ControlMessage = RightsChanged | Invalidated


class Subscriber(Protocol):
    """Who listens to one document: its room."""

    def heard(self, instance: InstanceId, message: DocumentMessage) -> None:
        """Another instance says so."""
        ...

    def missed(self) -> None:
        """Messages may have been lost: look at the log."""
        ...


class ControlSubscriber(Protocol):
    """Who listens to what concerns the whole instance."""

    def told(self, instance: InstanceId, message: ControlMessage) -> None:
        """Another instance says so."""
        ...

    def missed_control(self) -> None:
        """Messages may have been lost: whatever they would have changed is looked at anew."""
        ...


class Bus(Protocol):
    """The way to the other instances."""

    @property
    def instance(self) -> InstanceId: ...

    @property
    def is_away(self) -> bool:
        """Whether the bus cannot be reached just now. Editing and saving go on; other instances are late."""
        ...

    def publish(self, document_id: DocumentId, message: DocumentMessage) -> None: ...

    def tell_all(self, message: ControlMessage) -> None: ...

    def listen(self, subscriber: ControlSubscriber) -> None:
        """Name who is told of control messages, before `run`."""
        ...

    async def subscribe(self, document_id: DocumentId, subscriber: Subscriber, timeout: float) -> bool:
        """Have a document's messages heard; one subscriber a document. timeout: seconds to wait for it to be established."""
        ...

    def unsubscribe(self, document_id: DocumentId) -> None: ...

    async def run(self) -> None:
        """Carry messages for ever; cancelled by its owner."""
        ...
