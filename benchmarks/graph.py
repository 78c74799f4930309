"""A course graph of many authors, as the updates that made it: the same content for every server that is measured.

As large as a large real course: with 2,500 nodes about 8,800 edges and 1.4 MB.
"""

import functools
import random
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pycrdt import Doc, Map, Text

from benchmarks.edits import PROPERTIES, TEXT, mark

_SEED, _OFFLINE_SEED = 4, 5  # two, since a client id may be there only once
_AUTHORS: Final = 20
_LONGEST_SPELL: Final = 40  # nodes that an author adds before another one goes on
_EDGES: Final = (2, 5)  # of a node to earlier ones, at least and at most
_FIRST_OFFLINE: Final = 1_000  # number of an edit: the lower ones are made online
_LETTERS: Final = string.ascii_letters + string.digits
_WORDS: Final = (
    "graph",
    "loop",
    "river",
    "proof",
    "light",
    "number",
    "city",
    "verse",
    "cell",
    "force",
    "trade",
    "sound",
    "image",
    "motion",
    "value",
    "field",
    "tower",
    "method",
)
_MAPS: Final = ("nodes", "edges", "layout", PROPERTIES)

Content = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Offline:
    """Somebody who left early and edited since.

    known: how many updates of the graph they have; state_vector: the same and their own edits, as they tell it; update: what the
    server lacks, with all deletes that they know of, as stock clients answer; marks: the numbers of their edits.
    """

    known: int
    state_vector: bytes
    update: bytes
    marks: range


@functools.cache
def graph(nodes: int) -> Sequence[bytes]:
    """Return the updates that make a course of so many nodes, in order: each node with its edges and its place, then moves."""
    randomness = random.Random(_SEED)
    authors = [_Author(randomness.getrandbits(32)) for _ in range(_AUTHORS)]
    updates: list[bytes] = []
    ids: list[str] = []
    while len(ids) < nodes:
        author = randomness.choice(authors)
        author.catch_up(updates)
        for _ in range(min(randomness.randint(1, _LONGEST_SPELL), nodes - len(ids))):
            ids.append("".join(randomness.choices(_LETTERS, k=12)))
            updates.append(author.add_node(ids, randomness))
        for _ in range(randomness.randint(0, 8)):
            updates.append(author.move(randomness.choice(ids), randomness))
    return updates


@functools.cache
def offline(nodes: int, people: int, edits: int) -> Sequence[Offline]:
    """Return people who have each seen another beginning of the graph, four fifths of it at least, and made their own edits."""
    updates = graph(nodes)
    randomness = random.Random(_OFFLINE_SEED)
    whole = _document(updates).get_state()
    seen: Doc[Any] = Doc()
    done, found = 0, []
    for person in range(people):
        until = len(updates) * (4 * people + person) // (5 * people)
        _apply(seen, updates[done:until])
        done = until
        first = _FIRST_OFFLINE + person * edits
        document = _after_editing(seen, randomness.getrandbits(32), range(first, first + edits))
        state_vector, update = document.get_state(), document.get_update(whole)
        found.append(Offline(until, state_vector, update, range(first, first + edits)))
    randomness.shuffle(found)
    return found


def content(updates: Iterable[bytes]) -> Content:
    """Return what a client holds that has taken these updates."""
    document = _document(updates)
    maps = {name: document.get(name, type=Map).to_py() for name in _MAPS}
    return {TEXT: str(document.get(TEXT, type=Text)), **maps}


class _Author:
    """One client that edits the course."""

    def __init__(self, client_id: int) -> None:
        self._document: Doc[Any] = Doc(client_id=client_id)
        self._nodes = self._document.get("nodes", type=Map)
        self._edges = self._document.get("edges", type=Map)
        self._layout = self._document.get("layout", type=Map)
        self._made: list[bytes] = []
        self._seen = 0
        self._document.observe(lambda event: self._made.append(event.update))

    def catch_up(self, updates: Sequence[bytes]) -> None:
        """Take what others, and oneself, have made."""
        _apply(self._document, updates[self._seen :])
        self._seen = len(updates)
        self._made.clear()

    def add_node(self, ids: Sequence[str], randomness: random.Random) -> bytes:
        """Return the update that adds the last node of these, with edges to earlier ones."""
        node, earlier = ids[-1], ids[:-1]
        with self._document.transaction():
            self._nodes[node] = Map(
                {
                    "kind": randomness.choice(("module", "lesson", "video", "quiz", "assignment")),
                    "life": 1,
                    "parent": randomness.choice(earlier) if earlier else "",
                    "ord": "a" + "".join(randomness.choices(_LETTERS, k=4)),
                    "title": Text(" ".join(randomness.choices(_WORDS, k=2))),
                    "desc": Text(" ".join(randomness.choices(_WORDS, k=3))),
                    "status": "draft",
                }
            )
            for other in randomness.sample(earlier, min(len(earlier), randomness.randint(*_EDGES))):
                kind = randomness.choice(("pre", "seq", "ref"))
                self._edges[f"{kind}:{other}>{node}"] = {"type": kind, "from": other, "to": node}
            self._place(node, randomness)
        return self._made.pop()

    def move(self, node: str, randomness: random.Random) -> bytes:
        """Return the update that moves a node."""
        with self._document.transaction():
            self._place(node, randomness)
        return self._made.pop()

    def _place(self, node: str, randomness: random.Random) -> None:
        self._layout[f"flow/{node}"] = [randomness.randint(0, 4000), randomness.randint(0, 4000)]


def _after_editing(seen: Doc[Any], client_id: int, marks: range) -> Doc[Any]:
    """Return what somebody has who has taken what was seen, and then made an edit for each mark."""
    document: Doc[Any] = Doc(client_id=client_id)
    document.apply_update(seen.get_update())
    text, properties = document.get(TEXT, type=Text), document.get(PROPERTIES, type=Map)
    for number in marks:
        marked = mark(number).decode()
        if number % 2:
            text.insert(len(str(text)), marked)
        else:
            properties[marked] = marked
    return document


def _document(updates: Iterable[bytes]) -> Doc[Any]:
    document: Doc[Any] = Doc()
    _apply(document, updates)
    return document


def _apply(document: Doc[Any], updates: Iterable[bytes]) -> None:
    with document.transaction():
        for update in updates:
            document.apply_update(update)
