"""Histories made by stock Yjs from a seed: text with emoji and formats, embeds, arrays, maps, XML, subdocuments, undo."""

from typing import NamedTuple

from constructure_sync.protocol.lib0 import Reader, write_var_uint
from constructure_sync.protocol.state_vector import decode_state_vector
from tests.faults.node_process import NodeProcess


class GenuineHistory(NamedTuple):
    """updates: in the order they were made; merged: all of them in one; states: each client's; vector: of everything."""

    updates: list[bytes]
    merged: bytes
    states: list[bytes]
    vector: dict[int, int]


def genuine_histories(seed: int, histories: int, steps: int) -> list[GenuineHistory]:
    """Have stock Yjs make so many histories of so many edits each."""
    with NodeProcess("genuine.mjs") as node:
        reader = Reader(node.ask(b"".join(map(write_var_uint, (seed, histories, steps)))))
    made = []
    for _ in range(histories):
        updates = [reader.read_var_bytes() for _ in range(reader.read_var_uint())]
        merged = reader.read_var_bytes()
        states = [reader.read_var_bytes() for _ in range(reader.read_var_uint())]
        made.append(GenuineHistory(updates, merged, states, decode_state_vector(reader.read_var_bytes())))
    reader.expect_end()
    return made
