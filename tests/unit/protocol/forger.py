"""Updates of random shapes, from a seed: more of everything than editing makes."""

import random

from constructure_sync.protocol.lib0 import var_string
from tests.unit.protocol.updates import Id, gc, item, section, skip, uints, update


class Forger:
    """Makes well-formed updates of a few clients with references to anything, also to what is absent."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.clocks = dict.fromkeys((1, 2, 200, 2**40), 0)

    def reference(self, client: int, clock: int) -> Id | None:
        other = self.rng.choice(list(self.clocks))
        highest = clock if other == client else self.clocks[other] + self.rng.choice((0, 0, 0, 2))
        return (other, self.rng.randrange(highest)) if highest else None

    def struct(self, client: int, clock: int) -> tuple[bytes, int]:
        rng = self.rng
        kind = rng.choice(("text", "text", "any", "map", "map", "deleted", "gc", "skip", "format"))
        length = rng.randrange(1, 4)
        if kind == "gc":
            return gc(length), length
        if kind == "skip":
            return (skip(length), length) if rng.random() < 0.2 else (gc(1), 1)
        shape = rng.randrange(5)
        origin = (
            self.reference(client, clock) if shape in (0, 1) else (client, clock - 1) if clock and shape == 2 else None
        )
        right = self.reference(client, clock) if shape in (1, 3) else None
        parent = (self.reference(client, clock) or "t") if rng.random() < 0.3 else "t"
        content, number, length = {
            "text": (var_string("xyz"[:length]), 4, length),
            "any": (uints(length) + b"\x7e" * length, 8, length),
            "map": (uints(1), 7, 1),
            "deleted": (uints(length), 1, length),
            "format": (var_string("b") + var_string("1"), 6, 1),
        }[kind]
        key = rng.choice((None, "k"))
        return item(number, content, origin, right, parent, key), length

    def update(self) -> bytes:
        rng = self.rng
        sections = []
        for client in rng.sample(list(self.clocks), rng.choice((0, 1, 1, 1, 2, 3))):
            start = clock = max(0, self.clocks[client] + rng.choice((0, 0, 0, 0, -1, -2, 1)))
            structs = []
            for _ in range(rng.choice((1, 1, 1, 2, 5))):
                made, length = self.struct(client, clock)
                structs.append(made)
                clock += length
            sections.append(section(client, start, *structs))
            self.clocks[client] = max(self.clocks[client], clock)
        deletes = []
        for client in rng.sample(list(self.clocks), rng.choice((0, 0, 1, 1, 2))):
            for _ in range(rng.choice((1, 1, 2))):
                start = rng.randrange(self.clocks[client] + 1)
                deletes.append((client, start, start + rng.randrange(1, 4)))
        return update(*sections, deletes=tuple(deletes))
