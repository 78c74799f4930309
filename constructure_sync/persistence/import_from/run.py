"""One import, from the command's arguments to its end."""

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from constructure_sync.errors import ConstructureError
from constructure_sync.persistence.import_from.importer import Importer, ImportOptions
from constructure_sync.persistence.import_from.records import DocumentReport, Mapping, Report
from constructure_sync.persistence.import_from.sources import SourceKind, open_source
from constructure_sync.replica.pool import WorkerPool
from constructure_sync.settings import Settings
from storage.open import open_database


class NoSuchAccount(ConstructureError):
    """Nobody has this e-mail address."""


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """What is asked for. source: the word for it in the mapping. only: a pattern that names must match, as of the shell."""

    kind: SourceKind
    path: Path
    source: str
    owner: str
    output: Path
    only: str
    merges: bool
    is_dry_run: bool


async def import_from(
    settings: Settings, request: ImportRequest, tell: Callable[[int, int, DocumentReport], None]
) -> Path:
    """Import, tell what became of each document (its number, how many there are, its report); return the report's path.

    Raises NoSuchAccount, SourceError, RecordsError, LogChanged, StorageError, OSError.
    """
    source = open_source(request.kind, request.path)
    try:
        names = [name for name in source.names() if fnmatchcase(name, request.only)]
        request.output.mkdir(parents=True, exist_ok=True)
        report = Report(request.output, keeps_copies=not request.is_dry_run)
        mapping = Mapping(request.output, request.source)
        async with (
            await open_database(settings.database_address, settings.database_options) as database,
            WorkerPool(1) as workers,
        ):
            credentials = await database.accounts.credentials(request.owner)
            if credentials is None:
                raise NoSuchAccount(f"there is no account with the e-mail address {request.owner}")
            options = ImportOptions(
                owner=credentials.user.id,
                merges=request.merges,
                is_dry_run=request.is_dry_run,
                batch_updates=settings.log_batch_updates,
                batch_bytes=settings.log_batch_bytes,
                max_document_bytes=settings.max_document_bytes,
            )
            with mapping, report:
                importer = Importer(database, workers, source, mapping, report, options)
                number = 0
                async for document in importer.run(names):
                    number += 1
                    tell(number, len(names), document)
        return report.path
    finally:
        source.close()
