"""What pycrdt shows of updates, to compare contents. Not for text beyond U+FFFF, where pycrdt and Yjs may differ."""

from collections.abc import Iterable
from typing import Any

from pycrdt import Array, Doc, Map, Text, XmlFragment

from constructure_sync.protocol.state_vector import decode_state_vector


def load(updates: Iterable[bytes]) -> "Doc[Any]":
    doc: Doc[Any] = Doc()
    for update in updates:
        doc.apply_update(update)
    return doc


def shown(updates: Iterable[bytes]) -> dict[str, Any]:
    """Content of the golden histories' roots, and the decoded state vector: what is pending is missing in both."""
    doc = load(updates)
    return {
        "vector": decode_state_vector(doc.get_state()),
        "text": doc.get("text", type=Text).diff(),
        "map": doc.get("map", type=Map).to_py(),
        "list": [
            value if not isinstance(value, Doc) else "document" for value in doc.get("list", type=Array).to_py() or []
        ],
        "xml": str(doc.get("xml", type=XmlFragment)),
    }
