"""What the contract tests need of a backend: its stores, and a way to make documents and to move the clock."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from schemas.ids import CommitId, CourseId, DocumentId, UserId
from schemas.roles import PlatformRole
from storage.accounts import Accounts, User
from storage.contracts import StrandedChanges, UpdateLog
from storage.courses import Courses, NewCourse
from storage.database import DEFAULT_OPTIONS, DatabaseOptions, SqlDatabase
from storage.log import SqlUpdateLog
from storage.memory import MemoryStrandedChanges, MemoryUpdateLog
from storage.migrate import migrate
from storage.postgres import PostgresDatabase
from storage.sqlite import SqliteDatabase
from storage.stranded import SqlStrandedChanges

FIRST_COMMIT = CommitId(7_000_000_000_000_000_001)
"""The commit id of every document's first update, its Seq 1."""


@dataclass(slots=True)
class Clock:
    """Seconds since 1970, moved by hand."""

    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now


class Backend(Protocol):
    """A backend under test. Every document it makes has one update, `b"first"`, with `FIRST_COMMIT`."""

    log: UpdateLog
    stranded: StrandedChanges
    clock: Clock

    async def document(self) -> DocumentId: ...

    async def reopen(self) -> None: ...

    async def close(self) -> None: ...


class MemoryBackend:
    """The reference."""

    def __init__(self) -> None:
        self.clock = Clock()
        self._log = MemoryUpdateLog(self.clock)
        self.log: UpdateLog = self._log
        self.stranded: StrandedChanges = MemoryStrandedChanges()

    async def document(self) -> DocumentId:
        document_id = DocumentId(uuid4())
        self._log.create(document_id, b"first", FIRST_COMMIT)
        return document_id

    async def reopen(self) -> None:
        """Memory lives as long as its process."""

    async def close(self) -> None:
        """Nothing to close."""


class SqlBackend:
    """A database, opened anew by `reopen` as after a restart."""

    def __init__(self, url: str, options: DatabaseOptions = DEFAULT_OPTIONS) -> None:
        self.url = url
        self._options = options
        self.clock = Clock()
        self._open()

    @classmethod
    async def sqlite(cls, folder: Path) -> "SqlBackend":
        """An embedded database in a new file."""
        url = f"sqlite:///{folder / 'constructure.db'}"
        await migrate(url)
        return await cls._made(url, DEFAULT_OPTIONS)

    @classmethod
    async def postgres(cls, url: str, options: DatabaseOptions = DEFAULT_OPTIONS) -> "SqlBackend":
        """A database of a server, with our schema and nothing in it."""
        return await cls._made(url, options)

    @classmethod
    async def _made(cls, url: str, options: DatabaseOptions) -> "SqlBackend":
        backend = cls(url, options)
        owner = User(backend.owner, "owner@example.org", "Owner", PlatformRole.TEACHER, 0.0)
        await backend.accounts.create(owner, "-")
        return backend

    def _open(self) -> None:
        self.database: SqlDatabase
        if self.url.startswith("sqlite"):
            self.database = SqliteDatabase(self.url, self._options, readers=2)
        else:
            self.database = PostgresDatabase(self.url, self._options)
        self.log: UpdateLog = SqlUpdateLog(self.database, self.clock)
        self.stranded: StrandedChanges = SqlStrandedChanges(self.database, self.clock)
        self.accounts = Accounts(self.database)
        self.courses = Courses(self.database)

    owner = UserId(uuid4())

    async def document(self) -> DocumentId:
        document_id = DocumentId(uuid4())
        await self.courses.create(
            NewCourse(
                id=CourseId(uuid4()),
                title="Course",
                owner=self.owner,
                document_id=document_id,
                lineage=uuid4(),
                schema_version=1,
                first_update=b"first",
                commit=FIRST_COMMIT,
                created_at=self.clock(),
            )
        )
        return document_id

    async def reopen(self) -> None:
        await self.database.close()
        self._open()

    async def close(self) -> None:
        await self.database.close()
