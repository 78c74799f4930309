"""Compiles the readers of updates (`constructure_sync/protocol/native/*.c`) when the package is built or installed.

A wheel gets them inside and a tag of this platform; an editable install gets them beside the Python modules. Where nothing
can be compiled (no compiler, no headers of Python) the wheel is pure, one line says why, and the same readers in Python
are used. `CC` and `CFLAGS` are taken from the environment as usual.
"""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES: Final = "constructure_sync/protocol/native"
MODULE: Final = f"constructure_sync/protocol/_native{sysconfig.get_config_var('EXT_SUFFIX')}"
TIMEOUT_SECONDS: Final = 120.0

COMPILE: Final = ("-std=c11", "-O2", "-DNDEBUG", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra")
# Undefined first: some compilers define it themselves and warn of a second definition.
HARDEN: Final = ("-fstack-protector-strong", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2")
LINK: Final = (
    ("-bundle", "-undefined", "dynamic_lookup") if sys.platform == "darwin" else ("-shared", "-Wl,-z,relro,-z,now")
)


class NotCompiled(Exception):
    """There is no compiled module; the text says why."""


def compile_readers(root: Path, target: Path, flags: Sequence[str] = ()) -> None:
    """Compile and link the extension module to `target`, replacing it at once; NotCompiled: it cannot be done here.

    root: the top folder of the sources; flags: further ones, after all others.
    """
    compiler = _compiler()
    include = Path(sysconfig.get_path("include"))
    if not (include / "Python.h").is_file():
        raise NotCompiled("the headers of Python are not installed")
    sources = sorted(map(str, (root / SOURCES).glob("*.c")))
    extra = [*shlex.split(os.environ.get("CFLAGS", "")), *flags]
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".compiling-") as folder:
        draft = Path(folder, target.name)
        command = [*compiler, *COMPILE, *HARDEN, f"-I{include}", *extra, *sources, *LINK, "-o", str(draft)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
        except subprocess.CalledProcessError as error:
            raise NotCompiled(f"{compiler[0]} failed:\n{error.stderr}") from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NotCompiled(f"{compiler[0]} failed: {error}") from error
        # A server that runs goes on with the file that it has open.
        draft.replace(target)


def _compiler() -> list[str]:
    """The command of the C compiler: of the environment, the one that made this Python, or whichever there is."""
    for command in (os.environ.get("CC"), sysconfig.get_config_var("CC"), "cc", "gcc", "clang"):
        words = shlex.split(command or "")
        if words and shutil.which(words[0]):
            return words
    raise NotCompiled("there is no C compiler")


def compile_in_place(root: Path) -> str:
    """Compile into the source tree, where an editable install finds it; give one line on what came of it."""
    target = root / MODULE
    try:
        compile_readers(root, target)
    except NotCompiled as error:
        target.unlink(missing_ok=True)
        return f"The readers of updates stay in Python: {error}"
    return f"The readers of updates are compiled: {MODULE}"


class CompileReaders(BuildHookInterface[Any]):
    """What hatchling calls around the making of a wheel."""

    PLUGIN_NAME = "custom"
    _folder: tempfile.TemporaryDirectory[str] | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile into the source tree for an editable install, otherwise into the wheel."""
        root = Path(self.root)
        if version == "editable":
            self.app.display_info(compile_in_place(root))
            return
        self._folder = tempfile.TemporaryDirectory()
        target = Path(self._folder.name, Path(MODULE).name)
        try:
            compile_readers(root, target)
        except NotCompiled as error:
            self.app.display_warning(f"The readers of updates stay in Python: {error}")
            return
        build_data["force_include"][str(target)] = MODULE
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was compiled for the wheel, which holds it now."""
        if self._folder is not None:
            self._folder.cleanup()


if __name__ == "__main__":
    print(compile_in_place(Path(__file__).resolve().parent))
