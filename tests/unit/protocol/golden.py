"""Histories made by stock Yjs (`make_golden.mjs`), decoded."""

import base64
import json
from pathlib import Path
from typing import Any, NamedTuple


class History(NamedTuple):
    """One document's history: updates in the order they were sent, and what Yjs made of them.

    emoji: whether there are characters beyond U+FFFF (pycrdt may show such text otherwise than Yjs); states: each client's
    whole document; state, vector, content: of a document that has everything.
    """

    name: str
    emoji: bool
    updates: list[bytes]
    merged: bytes
    states: list[bytes]
    state: bytes
    vector: bytes
    content: dict[str, Any]


def _load() -> list[History]:
    decode = base64.b64decode
    return [
        History(
            entry["name"],
            entry["emoji"],
            [decode(update) for update in entry["updates"]],
            decode(entry["merged"]),
            [decode(state) for state in entry["states"]],
            decode(entry["state"]),
            decode(entry["vector"]),
            entry["content"],
        )
        for entry in json.loads(Path(__file__).with_name("golden.json").read_text())
    ]


HISTORIES = _load()
NAMES = [history.name for history in HISTORIES]
EVERY_UPDATE = [update for history in HISTORIES for update in history.updates]
