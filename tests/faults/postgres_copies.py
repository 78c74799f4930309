"""A Postgres whose data folder can be copied as it lies there, looked into, and put back later."""

import shutil
import subprocess
from typing import Self

from tests.postgres import Postgres


class CopiedPostgres(Postgres):
    """One server, or a copy of one. Copies are for servers that do not run; whoever takes one closes it."""

    def copy(self) -> Self:
        """Return a server that does not run yet, on a port of its own and a copy of this one's data."""
        copy = type(self)(self._settings)
        copy.take_data(self)
        return copy

    def take_data(self, other: Postgres) -> None:
        """Replace the data by a copy of another server's."""
        shutil.rmtree(self._data, ignore_errors=True)
        subprocess.run(["cp", "-a", str(other._data), str(self._data)], check=True)
        (self._data / "postmaster.pid").unlink(missing_ok=True)  # of a process that is no more
