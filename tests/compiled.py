"""The compiled readers, built anew from their sources, so that what is tested is what is there."""

import importlib.util
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import cast

import pytest

from constructure_sync.protocol.readers import Compiled
from hatch_build import MODULE, NotCompiled, compile_readers

REPOSITORY = Path(__file__).resolve().parent.parent
STRICT = ("-Werror",)


@cache
def has_compiler() -> bool:
    """Whether the readers can be compiled here at all."""
    try:
        with built():
            return True
    except NotCompiled:
        return False


@contextmanager
def built(*flags: str) -> Iterator[Path]:
    """Compile with these further flags; the file is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, Path(MODULE).name)
        compile_readers(REPOSITORY, target, flags)
        yield target


def load(library: Path) -> Compiled:
    """Import an extension module from where it lies, beside the one that may be installed."""
    spec = importlib.util.spec_from_file_location("constructure_sync.protocol._native", library)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return cast(Compiled, module)


@cache
def compiled() -> Compiled:
    """Return the compiled readers, warnings of the compiler being errors; skips where there is no compiler."""
    if not has_compiler():
        pytest.skip("there is no C compiler, or Python's headers are missing")
    with built(*STRICT) as library:
        return load(library)
