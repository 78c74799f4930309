"""The functions of the extension module, whose sources are in `native/`; each is described in Python.

`close_whole` is in `readers`, the others are in the modules named like their sources.
"""

from array import array

from constructure_sync.protocol.closed_part import ClosedPart
from constructure_sync.protocol.id_ranges import IdRanges
from constructure_sync.protocol.update_reader import DEFAULT_LIMITS, ParsedUpdate, UpdateLimits

def close_short(
    data: bytes,
    clocks: dict[int, int],
    nesting: dict[int, array[int]],
    deleted: IdRanges,
    limits: UpdateLimits,
    /,
) -> ClosedPart | None: ...
def close_whole(
    data: bytes,
    clocks: dict[int, int],
    nesting: dict[int, array[int]],
    deleted: IdRanges,
    limits: UpdateLimits,
    /,
) -> ClosedPart | None: ...
def read_update(data: bytes, limits: UpdateLimits = DEFAULT_LIMITS, /) -> ParsedUpdate: ...
