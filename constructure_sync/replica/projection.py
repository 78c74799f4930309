"""Projection documents: pycrdt Docs that may be thrown away at any moment (R2), held by one sticky worker process.

They are views for what people search and list. Clients are never served from them: after a client splits a surrogate pair they
may show another replacement character than Yjs does.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Never

import pycrdt

from constructure_sync.errors import ConstructureError
from constructure_sync.replica.pool import Panic

_HELD_DOCUMENTS = 64
_MAX_TITLE = 300


class NotProjected(ConstructureError):
    """pycrdt refuses the updates: a log is damaged."""


def raise_as_ours(error: BaseException) -> Never:
    """Raise what pycrdt raised as Panic or NotProjected; anything that is no fault of the updates as it is."""
    if type(error).__name__ == "PanicException":  # of pyo3: a BaseException without a public import
        raise Panic(str(error)) from None
    if isinstance(error, Exception):
        raise NotProjected(str(error)) from None
    raise error


@dataclass(slots=True)
class _Held:
    seq: int
    document: "pycrdt.Doc[pycrdt.Text]"


@dataclass(frozen=True, slots=True)
class CourseFacts:
    """What lists and searches show of a course. title: one line of at most 300 characters; None when it has none."""

    title: str | None


_held: OrderedDict[str, _Held] = OrderedDict()


def project_course(document_id: str, after: int, upto: int, updates: Sequence[bytes]) -> CourseFacts | None:
    """Bring the held document from Seq `after` to `upto` and return what it shows.

    updates: the log between the two; everything up to `upto` when `after` is 0. None: this process does not hold the document
    at `after`; call again with everything. Raises Panic and NotProjected, after which the document is no longer held.
    """
    held = _held.pop(document_id, None)
    if after == 0:
        held = _Held(0, pycrdt.Doc())
    elif held is None or held.seq != after:
        return None
    try:
        with held.document.transaction():
            for update in updates:
                held.document.apply_update(update)
        facts = CourseFacts(_title(held.document))
    except BaseException as error:
        raise_as_ours(error)
    held.seq = upto
    _held[document_id] = held
    if len(_held) > _HELD_DOCUMENTS:
        _held.popitem(last=False)
    return facts


def _title(document: "pycrdt.Doc[pycrdt.Text]") -> str | None:
    try:
        text = str(document.get("title", type=pycrdt.Text))
    except (TypeError, RuntimeError):
        return None  # an editor is free to write something else there; the schema is not enforced
    return " ".join(text.split())[:_MAX_TITLE] or None
