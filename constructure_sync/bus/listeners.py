"""Who listens on this instance, and the safe way to call them (BU5)."""

from collections.abc import Iterable

from constructure_sync.bus.contracts import ControlMessage, ControlSubscriber, DocumentMessage, InstanceId, Subscriber
from constructure_sync.observability import get_logger
from schemas.ids import DocumentId

_log = get_logger()


class Listeners:
    """The subscribers of one instance, by document, and the one that hears control messages."""

    def __init__(self) -> None:
        self._by_document: dict[DocumentId, Subscriber] = {}
        self._control: ControlSubscriber | None = None

    def __contains__(self, document_id: DocumentId) -> bool:
        return document_id in self._by_document

    def __len__(self) -> int:
        return len(self._by_document)

    def documents(self) -> list[DocumentId]:
        return list(self._by_document)

    def add(self, document_id: DocumentId, subscriber: Subscriber) -> None:
        """Have a document's messages heard; a later subscriber takes the place of an earlier one."""
        self._by_document[document_id] = subscriber

    def remove(self, document_id: DocumentId) -> None:
        self._by_document.pop(document_id, None)

    def listen(self, subscriber: ControlSubscriber) -> None:
        self._control = subscriber

    def heard(self, document_id: DocumentId, instance: InstanceId, message: DocumentMessage) -> None:
        """Pass on what another instance says of a document."""
        subscriber = self._by_document.get(document_id)
        if subscriber is None:
            return
        try:
            subscriber.heard(instance, message)
        except Exception:
            _log.exception("bus_subscriber_failed", document=str(document_id), message=type(message).__name__)

    def told(self, instance: InstanceId, message: ControlMessage) -> None:
        """Pass on what another instance says to all."""
        if self._control is None:
            return
        try:
            self._control.told(instance, message)
        except Exception:
            _log.exception("bus_subscriber_failed", message=type(message).__name__)

    def missed(self, document_ids: Iterable[DocumentId]) -> None:
        """Say that messages of these documents may have been lost (BU4)."""
        for document_id in document_ids:
            subscriber = self._by_document.get(document_id)
            if subscriber is None:
                continue
            try:
                subscriber.missed()
            except Exception:
                _log.exception("bus_subscriber_failed", document=str(document_id), message="missed")

    def missed_control(self) -> None:
        """Say that control messages may have been lost (BU4)."""
        if self._control is None:
            return
        try:
            self._control.missed_control()
        except Exception:
            _log.exception("bus_subscriber_failed", message="missed")
