"""The shape of a course document (schema 1): roots, nodes, edges, order; made with pycrdt."""

import random
import time
from collections.abc import Iterator
from typing import Any

from pycrdt import Doc, Map, Text

DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
KINDS = ("module", "lesson", "video", "quiz", "assignment")
EDGE_TYPES = ("pre", "seq", "ref")


class CourseDocument:
    """A course graph in a Yjs document. Its changing methods belong inside one transaction of the document.

    Roots: `meta` (the server's), `title`, `description`, `settings`, `nodes`, `edges`, `edgeProps`, `layout`, `assets`.
    author: id of the user who edits here. randomness: for ids and order keys.
    """

    def __init__(self, document: Doc[Any], author: str, randomness: random.Random) -> None:
        self.author = author
        self._random = randomness
        self.title: Text = document.get("title", type=Text)
        self.description: Text = document.get("description", type=Text)
        self.settings: Map[Any] = document.get("settings", type=Map)
        self.nodes: Map[Any] = document.get("nodes", type=Map)
        self.edges: Map[Any] = document.get("edges", type=Map)
        self.edge_props: Map[Any] = document.get("edgeProps", type=Map)

    def new_id(self) -> str:
        """Return a node id: 12 random base62 characters."""
        return "".join(self._random.choices(DIGITS, k=12))

    def add_node(
        self,
        kind: str,
        title: str,
        *,
        parent: str = "",
        index: int = 0,
        node_id: str | None = None,
        description: str = "",
        properties: dict[str, Any] | None = None,
    ) -> str:
        """Add a node with every nested type it will ever have, and return its id.

        A nested type made later could be made twice, by two people at once, and one of them would lose its content.
        parent: id of the module around it. index: its place among its siblings. properties: further keys of the node.
        """
        node_id = node_id or self.new_id()
        self.nodes[node_id] = Map(
            {
                "kind": kind,
                "by": self.author,
                "at": _now(),
                "life": 1,
                "parent": parent,
                "ord": order_key(index, self._random),
                "title": Text(title),
                "desc": Text(description),
                "status": "draft",
                **(properties or {}),
            }
        )
        return node_id

    def add_edge(self, kind: str, start: str, end: str, properties: dict[str, Any] | None = None) -> str:
        """Add an edge and return its key. The value never changes; what can be edited lies in `edgeProps`."""
        key = f"{kind}:{start}>{end}"
        self.edges[key] = {"type": kind, "from": start, "to": end, "by": self.author, "at": _now()}
        for name, value in (properties or {}).items():
            self.edge_props[f"{key}#{name}"] = value
        return key

    def remove_edge(self, key: str) -> None:
        """Remove an edge. KeyError: there is none."""
        del self.edges[key]

    def trash_node(self, node_id: str) -> None:
        """Put a node in the trash: it stays, marked, so that what others write in it meanwhile is not lost."""
        self.nodes[node_id]["life"] = {"by": self.author, "at": _now()}

    def rename_node(self, node_id: str, title: str) -> None:
        """Change a node's title, touching only what differs. KeyError: there is no such node."""
        set_text(self.nodes[node_id]["title"], title)

    def alive(self) -> Iterator[tuple[str, Map[Any]]]:
        """Yield the nodes that are not in the trash, in the order of their ids."""
        for node_id in sorted(self.nodes.keys()):
            node = self.nodes[node_id]
            if node.get("life") == 1:
                yield node_id, node

    def next_index(self, parent: str = "") -> int:
        """Return an index behind all siblings."""
        return sum(1 for _, node in self.alive() if node.get("parent") == parent)


def order_key(index: int, randomness: random.Random) -> str:
    """Return the fractional index of the sibling number `index`: `a0…` to `az…`, `b00…` to `bzz…`, and so on.

    The three random characters at the end keep two people's keys apart; a last `0` would leave no room before it.
    """
    width, first = 1, 0
    while index >= first + 62**width:
        first += 62**width
        width += 1
    digits, rest = "", index - first
    for _ in range(width):
        rest, digit = divmod(rest, 62)
        digits = DIGITS[digit] + digits
    jitter = "".join((*randomness.choices(DIGITS, k=2), randomness.choice(DIGITS[1:])))
    return chr(ord("a") + width - 1) + digits + jitter


def set_text(text: Text, new: str) -> None:
    """Make a shared text read `new` by one deletion and one insertion where they differ: others' insertions survive.

    pycrdt counts in UTF-8 bytes. Comparing whole characters never cuts one in two, which other clients could not follow.
    """
    old = str(text)
    start = 0
    while start < min(len(old), len(new)) and old[start] == new[start]:
        start += 1
    end = 0
    while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
        end += 1
    position = len(old[:start].encode())
    removed = len(old[start : len(old) - end].encode())
    inserted = new[start : len(new) - end]
    if removed:
        del text[position : position + removed]
    if inserted:
        text.insert(position, inserted)


def _now() -> int:
    """Return epoch milliseconds: for display only, clocks differ."""
    return round(time.time() * 1000)
