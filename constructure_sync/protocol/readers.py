"""The readers of updates in use: compiled ones where they could be built, otherwise the same functions in Python.

All give the same for the same bytes. CONSTRUCTURE_PURE_PYTHON=1 keeps to Python.
"""

import os
from array import array
from collections.abc import Callable
from typing import Final, Literal, Protocol

from constructure_sync.protocol import short_updates, update_reader
from constructure_sync.protocol.closed_part import ClosedPart
from constructure_sync.protocol.id_ranges import IdRanges
from constructure_sync.protocol.update_reader import DEFAULT_LIMITS, ParsedUpdate, UpdateLimits

Close = Callable[[bytes, dict[int, int], dict[int, "array[int]"], IdRanges, UpdateLimits], ClosedPart | None]
"""Gives the closed part of an update of the shapes that it knows; None: take the general way."""


class ReadUpdate(Protocol):
    """See `update_reader.read_update`."""

    def __call__(self, data: bytes, limits: UpdateLimits = DEFAULT_LIMITS, /) -> ParsedUpdate: ...


class Compiled(Protocol):
    """The extension module."""

    @property
    def close_short(self) -> Close: ...

    @property
    def close_whole(self) -> Close: ...

    @property
    def read_update(self) -> ReadUpdate: ...


def _compiled() -> Compiled | None:
    """Give the extension module unless it is not there, not wanted, or left from sources that lacked some of it."""
    if os.environ.get("CONSTRUCTURE_PURE_PYTHON", "").lower() in ("1", "true", "yes", "on"):
        return None
    try:
        from constructure_sync.protocol import _native
    except ImportError:
        return None
    is_whole = all(hasattr(_native, name) for name in ("close_short", "close_whole", "read_update"))
    return _native if is_whole else None


_native = _compiled()
IMPLEMENTATION: Final[Literal["compiled", "python"]] = "python" if _native is None else "compiled"
close_short: Close = short_updates.close_short if _native is None else _native.close_short
read_update: ReadUpdate = update_reader.read_update if _native is None else _native.read_update
close_whole: Close | None = None if _native is None else _native.close_whole
"""What `closing` gives, for updates of which all structs are new and refer to nothing that comes later.

In Python that would be the general way once more, so it is compiled only.
"""
