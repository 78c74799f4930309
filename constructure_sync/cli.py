"""The command line. Thin: every command reads the settings and calls what does the work.

What a command needs it imports itself: worker processes import this module anew, and should not load a web server for it.
"""

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Never
from uuid import UUID

import typer

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
def serve() -> None:
    """Run the server until SIGTERM or Ctrl-C."""
    import uvloop

    from constructure_sync.app import serve as serve_instance
    from constructure_sync.settings import SettingsError
    from storage.contracts import StorageError

    settings = _settings()
    try:
        uvloop.run(serve_instance(settings))
    except SettingsError as error:
        _fail(str(error), 2)
    except StorageError as error:
        _fail(f"the database cannot be opened: {error}")


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


def main() -> None:
    """Entry point of `constructure-sync`."""
    app()


if __name__ == "__main__":
    main()
