"""The command line. Thin: every command reads the settings and calls what does the work.

What a command needs it imports itself: worker processes import this module anew, and should not load a web server for it.
"""

import asyncio
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Never
from uuid import UUID

import typer

from constructure_sync.persistence.import_from.sources import SourceKind

if TYPE_CHECKING:
    from constructure_sync.settings import Settings

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Real-time collaboration for course graphs.")


def _settings() -> "Settings":
    from constructure_sync.observability import configure_logging
    from constructure_sync.settings import SettingsError, load_settings

    try:
        settings = load_settings()
    except SettingsError as error:
        _fail(str(error), 2)
    configure_logging(settings.log_level)
    return settings


def _fail(message: str, status: int = 1) -> Never:
    print(message, file=sys.stderr)
    raise typer.Exit(status)


@app.command()
def serve(
    workers: Annotated[
        int | None, typer.Option(min=1, max=64, help="Processes that share the port; unset: CONSTRUCTURE_WORKERS.")
    ] = None,
) -> None:
    """Run the server until SIGTERM or Ctrl-C."""
    from constructure_sync.settings import SettingsError
    from constructure_sync.supervisor import WorkersFailed, supervise
    from storage.contracts import StorageError

    settings = _settings()
    if workers is not None:
        settings = settings.model_copy(update={"workers": workers})
    try:
        if settings.workers > 1:
            raise typer.Exit(supervise(settings))
        _serve_alone(settings)
    except SettingsError as error:
        _fail(str(error), 2)
    except StorageError as error:
        _fail(f"the database cannot be opened: {error}")
    except WorkersFailed as error:
        _fail(str(error))


def _serve_alone(settings: "Settings") -> None:
    import uvloop

    from constructure_sync.app import serve as serve_instance

    uvloop.run(serve_instance(settings))


@app.command()
def migrate() -> None:
    """Bring the database to the schema of this version."""
    from storage.contracts import StorageError
    from storage.migrate import migrate as migrate_database

    settings = _settings()
    try:
        asyncio.run(migrate_database(settings.database_address))
    except StorageError as error:
        _fail(str(error))
    print("the database is up to date")


@app.command()
def config() -> None:
    """Print every setting in effect; the secret key is never shown."""
    for name, value in _settings().model_dump().items():
        print(f"CONSTRUCTURE_{name.upper()}={value}")


@app.command()
def export(
    course: Annotated[UUID, typer.Argument(help="Id of the course.")],
    output: Annotated[Path, typer.Option(help="File to write: one Yjs update (V1) that holds the whole document.")],
) -> None:
    """Write a course's document, as its log holds it, to a file that any Yjs client can apply."""
    from constructure_sync.errors import ConstructureError
    from constructure_sync.persistence.export import export_document
    from storage.contracts import StorageError

    settings = _settings()
    try:
        update = asyncio.run(export_document(settings.database_address, str(course)))
    except (StorageError, ConstructureError) as error:
        _fail(str(error))
    if update is None:
        _fail(f"there is no course {course}")
    output.write_bytes(update)
    print(f"{len(update)} bytes written to {output}")


@app.command("import-from")
def import_from(
    kind: Annotated[SourceKind, typer.Argument(help="What wrote it.")],
    path: Annotated[Path, typer.Argument(help="The SQLite file, or the folder of update files.")],
    owner: Annotated[str, typer.Option(help="E-mail address of the account that will own the courses.")],
    output: Annotated[Path, typer.Option(help="Folder for the mapping, the report and what is left out.")] = Path(
        "imported"
    ),
    source: Annotated[str, typer.Option(help="Name of the source in the mapping; its path, unless given.")] = "",
    only: Annotated[
        str, typer.Option(help="Import only documents whose names match this pattern, as in a shell.")
    ] = "*",
    merge: Annotated[
        bool, typer.Option("--merge", help="Read again what was imported before, and add what is new of it.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing; say in the report what would be done.")
    ] = False,
) -> None:
    """Make courses of the documents that another Yjs server stored; see docs/migrating.md."""
    from constructure_sync.errors import ConstructureError
    from constructure_sync.persistence.import_from.records import DocumentReport
    from constructure_sync.persistence.import_from.run import ImportRequest
    from constructure_sync.persistence.import_from.run import import_from as run_import
    from storage.contracts import StorageError

    settings = _settings()
    name = source or f"{kind.value}:{path.resolve()}"
    request = ImportRequest(kind, path, name, owner, output, only, merge, dry_run)
    outcomes: Counter[str] = Counter()
    incomplete = 0

    def tell(number: int, count: int, document: DocumentReport) -> None:
        nonlocal incomplete
        outcomes[document.outcome] += 1
        incomplete += not document.is_whole
        left = f", {len(document.left_out)} updates left out" if document.left_out else ""
        print(f"{number}/{count} {document.name!r}: {document.outcome}{left}", file=sys.stderr)

    try:
        report = asyncio.run(run_import(settings, request, tell))
    except (StorageError, ConstructureError, OSError) as error:
        _fail(f"the import stopped: {error}")
    done = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())) or "no documents"
    print(f"{'dry run, nothing was changed: ' if dry_run else ''}{done}; see {report}")
    if incomplete:
        _fail(f"of {incomplete} documents something was left out")


def main() -> None:
    """Entry point of `constructure-sync`."""
    app()


if __name__ == "__main__":
    main()
