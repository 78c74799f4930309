"""The command line. Thin: every command reads the settings and calls what does the work.

What a command needs it imports itself: worker processes import this module anew, and should not load a web server for it.
"""

import asyncio
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Never, TypeVar
from uuid import UUID

import typer

from constructure_sync.persistence.import_from.sources import SourceKind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from constructure_sync.persistence.doctor.commands import Doctor
    from constructure_sync.settings import Settings

Result = TypeVar("Result")

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
        asyncio.run(migrate_database(settings.database_address, settings.database_options))
    except StorageError as error:
        _fail(str(error))
    print("the database is up to date")


@app.command()
def config() -> None:
    """Print every setting in effect, and how updates are read; the secret key is never shown."""
    from constructure_sync.protocol.readers import IMPLEMENTATION

    for name, value in _settings().model_dump().items():
        print(f"CONSTRUCTURE_{name.upper()}={value}")
    print(f"# readers of updates: {IMPLEMENTATION}")


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
        update = asyncio.run(export_document(settings.database_address, str(course), settings.database_options))
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


doctor = typer.Typer(no_args_is_help=True, help="Look at documents' logs and repair them; see docs/operations.md.")
app.add_typer(doctor, name="doctor")

Course = Annotated[UUID, typer.Argument(help="Id of the course.")]
UpdateSeq = Annotated[int, typer.Argument(help="Number of the update (Seq).", min=1)]
Timeout = Annotated[float, typer.Option(help="Seconds that a worker process may take over one document.", min=0.1)]


def _with_doctor(timeout: float, work: "Callable[[Settings, Doctor], Awaitable[Result]]") -> "Result":
    from constructure_sync.errors import ConstructureError
    from constructure_sync.persistence.doctor.commands import open_doctor
    from storage.contracts import StorageError

    settings = _settings()

    async def run() -> "Result":
        async with open_doctor(settings, timeout) as opened:
            return await work(settings, opened)

    try:
        return asyncio.run(run())
    except (StorageError, ConstructureError, OSError) as error:
        _fail(str(error))


@doctor.command()
def inspect(course: Course, timeout: Timeout = 120.0) -> None:
    """Print what a course's log holds."""
    print("\n".join(_with_doctor(timeout, lambda _, opened: opened.inspect(str(course)))))


@doctor.command()
def verify(
    courses: Annotated[list[UUID] | None, typer.Argument(help="Ids of courses.", show_default=False)] = None,
    everything: Annotated[bool, typer.Option("--all", help="Verify every document there is.")] = False,
    timeout: Timeout = 120.0,
) -> None:
    """Read every update and every segment, and print what is wrong. The exit status is 1 when something is."""
    if everything == bool(courses):
        _fail("name courses, or --all", 2)

    async def run(_: "Settings", opened: "Doctor") -> tuple[int, int]:
        bad = seen = 0
        async for name, findings in opened.verify([str(course) for course in courses or ()]):
            seen += 1
            bad += bool(findings)
            for place, problem in findings:
                print(f"{name}: {place}: {problem}", flush=True)
        return seen, bad

    seen, bad = _with_doctor(timeout, run)
    print(f"{seen} documents read, {bad} of them damaged")
    if bad:
        raise typer.Exit(1)


@doctor.command()
def bisect(course: Course, timeout: Timeout = 120.0) -> None:
    """Find the first update that is bad: malformed, waiting for what is not there, or killing its reader."""
    finding = _with_doctor(timeout, lambda _, opened: opened.bisect(str(course)))
    if finding is not None:
        print(f"{finding.place}: {finding.problem}")
        raise typer.Exit(1)
    print("every update is good")


@doctor.command()
def quarantine(
    course: Course, seq: UpdateSeq, reason: Annotated[str, typer.Option(help="Kept with the update.")]
) -> None:
    """Take an update out of a course's log; until a rebuild the course is served read-only."""
    _with_doctor(120.0, lambda _, opened: opened.quarantine(str(course), seq, reason))
    print(f"update {seq} is in quarantine; the course is read-only until it is rebuilt or the update restored")


@doctor.command()
def restore(course: Course, seq: UpdateSeq) -> None:
    """Put an update back from quarantine."""
    _with_doctor(120.0, lambda _, opened: opened.restore(str(course), seq))
    print(f"update {seq} is back; after a rebuild, rebuild once more to have it in the course")


@doctor.command()
def rebuild(
    course: Course,
    copies: Annotated[
        Path | None, typer.Option(help="Folder for pieces of segments that cannot be read and have no rows.")
    ] = None,
    timeout: Timeout = 600.0,
) -> None:
    """Make one segment of everything in a course's log that integrates, and let it be edited again."""
    treated = _with_doctor(
        timeout, lambda settings, opened: opened.rebuild(str(course), settings.segment_bytes, copies)
    )
    for place, problem in treated.left_out:
        print(f"left out: {place}: {problem}")
    print(f"updates 1-{treated.last} are one segment of {treated.pieces} pieces, {treated.size} bytes")


def main() -> None:
    """Entry point of `constructure-sync`."""
    app()


if __name__ == "__main__":
    main()
