"""What only PostgreSQL can do wrong: durability that was lowered, locks of others, connections that break, an old backup."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import func, insert, select, text, type_coerce
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from schemas.ids import CommitId, DocumentId
from storage.contracts import Append, Changes, Diverged, NewUpdate, StorageError, StorageUnavailable
from storage.database import DEFAULT_OPTIONS, DatabaseAway, DatabaseOptions, Rejected
from storage.postgres import PostgresDatabase, create_engine
from storage.tables import courses, documents, metadata
from tests.contracts.backends import FIRST_COMMIT, SqlBackend
from tests.contracts.logs import FIRST, an_append, appended, covered_seqs, filled, loaded, place
from tests.contracts.schema import differences
from tests.postgres import Postgres
from tests.waiting import until

QUICK = replace(DEFAULT_OPTIONS, lock_limit=0.1)


@pytest.fixture
async def backend(postgres_url: str) -> AsyncIterator[SqlBackend]:
    made = await SqlBackend.postgres(postgres_url, QUICK)
    yield made
    await made.close()


@pytest.fixture
async def other(backend: SqlBackend) -> AsyncIterator[SqlBackend]:
    """Another instance on the same database."""
    made = SqlBackend(backend.url, QUICK)
    yield made
    await made.close()


async def test_readers_cannot_write(backend: SqlBackend) -> None:
    with pytest.raises(StorageUnavailable, match="read-only"):
        await backend.database.read(lambda connection: connection.execute(text("DELETE FROM users")).close())


async def test_UL1_two_instances_append_to_one_document(backend: SqlBackend, other: SqlBackend) -> None:
    document_id = await backend.document()

    async def write(instance: SqlBackend, first_commit: int) -> None:
        for commit in range(first_commit, first_commit + 25):
            await instance.log.append([an_append(document_id, FIRST, commit, b"a", b"b")])

    await asyncio.gather(write(backend, 100), write(other, 200), write(backend, 300))
    document = await loaded(backend, document_id)
    assert covered_seqs(document) == list(range(1, 152))


async def test_UL2_crossed_batches_of_two_instances_do_not_deadlock(backend: SqlBackend, other: SqlBackend) -> None:
    ids = [await backend.document() for _ in range(20)]

    async def write(instance: SqlBackend, order: list[DocumentId], first_commit: int) -> None:
        for commit in range(first_commit, first_commit + 15):
            await instance.log.append([an_append(each, FIRST, commit, b"x") for each in order])

    await asyncio.gather(write(backend, ids, 100), write(other, ids[::-1], 200), write(other, ids, 300))
    assert await backend.log.heads(ids) == {each: (await loaded(backend, each)).head for each in ids}
    assert {(await loaded(backend, each)).head.seq for each in ids} == {46}


async def test_UL2_rows_are_locked_in_id_order_whatever_the_plan(postgres: Postgres, postgres_url: str) -> None:
    name = postgres_url.rpartition("/")[2]
    postgres.sql(*(f'ALTER DATABASE "{name}" SET enable_{scan} = off' for scan in ("indexscan", "bitmapscan")))
    backend = await SqlBackend.postgres(postgres_url, replace(DEFAULT_OPTIONS, lock_limit=20.0))
    ids = [await backend.document() for _ in range(5)]
    while ids[0] == min(ids):
        ids.append(await backend.document())
    free = select(documents.c.id).where(documents.c.id.in_(ids)).with_for_update(skip_locked=True)
    try:
        async with locked(backend, min(ids)):
            appending = asyncio.create_task(backend.log.append([an_append(each, FIRST, 2, b"x") for each in ids]))
            await until(lambda: postgres.sql("SELECT count(*) FROM pg_locks WHERE NOT granted") == ["1"])
            found = await backend.database.write(lambda connection: connection.scalars(free).all())
            assert sorted(found) == sorted(ids)[1:]
        assert list(await appending) == [appended(each, 2, 2, FIRST_COMMIT) for each in ids]
    finally:
        await backend.close()


@contextlib.asynccontextmanager
async def locked(instance: SqlBackend, document_id: DocumentId) -> AsyncIterator[None]:
    """Another transaction holds the document's row."""
    holds, may_end = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    async def hold() -> None:
        database = PostgresDatabase(instance.url)
        engine = database._writers
        async with engine.begin() as connection:
            await connection.execute(select(documents).where(documents.c.id == document_id).with_for_update())
            loop.call_soon(holds.set)
            await may_end.wait()
        await database.close()

    holding = asyncio.create_task(hold())
    await holds.wait()
    try:
        yield
    finally:
        may_end.set()
        await holding


async def test_UL2_a_locked_row_delays_only_its_own_document(backend: SqlBackend) -> None:
    one, two = await backend.document(), await backend.document()
    batch = [an_append(each, FIRST, 2, b"x") for each in (one, two)]
    async with locked(backend, one):
        with pytest.raises(StorageUnavailable, match="lock timeout") as raised:
            await backend.log.append(batch)
        assert not isinstance(raised.value, DatabaseAway)
        assert list(await backend.log.append(batch[1:])) == [appended(two, 2, 2, FIRST_COMMIT)]
        with pytest.raises(StorageUnavailable, match="lock timeout"):
            await backend.log.append(batch[:1])
        assert await backend.log.heads([one, two]) == {one: FIRST, two: place(2, 2)}
    results = await backend.log.append(batch)
    assert list(results) == [appended(one, 2, 2, FIRST_COMMIT), appended(two, 2, 2, FIRST_COMMIT)]


async def test_R9_a_restored_backup_diverges(backend: SqlBackend, postgres: Postgres) -> None:
    document_id = await filled(backend, 5)
    name = backend.url.rpartition("/")[2]
    await backend.database.close()
    postgres.create_database(f"{name}_backup", name)
    await backend.reopen()
    await backend.log.append([an_append(document_id, place(5, 99), 50, b"lost", b"too")])
    await backend.database.close()
    postgres.drop_database(name)
    postgres.create_database(name, f"{name}_backup")
    postgres.drop_database(f"{name}_backup")
    await backend.reopen()

    seen = place(7, 50)
    late = an_append(document_id, seen, 51, b"more")
    assert list(await backend.log.append([late])) == [Diverged(document_id)]
    await backend.log.append([an_append(document_id, place(5, 99), 60, b"new", b"other", b"third")])
    assert list(await backend.log.append([late])) == [Diverged(document_id)]
    assert await backend.log.changes(document_id, seen, 10) == Diverged(document_id)
    assert await backend.log.heads([document_id]) == {document_id: place(8, 60)}
    # What was lost is offered again from a place that both have.
    again = an_append(document_id, place(5, 99), 50, b"lost", b"too")
    assert list(await backend.log.append([again])) == [appended(document_id, 9, 10, 60)]


async def test_an_immediate_stop_loses_nothing_and_the_next_call_after_it_works(
    postgres: Postgres, backend: SqlBackend
) -> None:
    document_id = await backend.document()
    after, commit = FIRST, 1
    for _ in range(2):
        for _ in range(5):
            commit += 1
            await backend.log.append([an_append(document_id, after, commit, b"x")])
            after = place(commit, commit)
        await backend.log.heads([document_id])
        postgres.stop_immediately()
        with pytest.raises(DatabaseAway):
            await backend.log.heads([document_id])
        with pytest.raises(DatabaseAway):
            await backend.log.append([an_append(document_id, after, 999, b"x")])
        postgres.start()
        assert await backend.log.heads([document_id]) == {document_id: after}
    assert covered_seqs(await loaded(backend, document_id)) == list(range(1, 12))


async def test_connections_that_were_ended_meanwhile_are_replaced_unnoticed(
    postgres: Postgres, backend: SqlBackend
) -> None:
    document_id = await backend.document()

    def driver(connection: Connection) -> Any:
        connection.execute(text("SELECT pg_sleep(0.1)"))
        return connection.connection.driver_connection

    drivers = await asyncio.gather(*(backend.database.read(driver) for _ in range(5)))
    postgres.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE 'test_%'")
    await until(lambda: all(each.is_closed() for each in drivers))
    assert await backend.log.heads([document_id]) == {document_id: FIRST}
    assert list(await backend.log.append([an_append(document_id, FIRST, 2, b"x")])) == [
        appended(document_id, 2, 2, FIRST_COMMIT)
    ]


async def test_connections_to_what_has_become_a_standby_are_left(postgres: Postgres, backend: SqlBackend) -> None:
    document_id = await backend.document()
    name = backend.url.rpartition("/")[2]
    postgres.sql(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    await backend.reopen()
    append = an_append(document_id, FIRST, 2, b"x")
    with pytest.raises(StorageUnavailable, match="read-only"):
        await backend.log.append([append])
    postgres.sql(
        "SET default_transaction_read_only = off", f'ALTER DATABASE "{name}" RESET default_transaction_read_only'
    )
    assert list(await backend.log.append([append])) == [appended(document_id, 2, 2, FIRST_COMMIT)]


async def test_R13_a_call_has_its_answer_in_time(postgres_url: str) -> None:
    database = PostgresDatabase(postgres_url, DatabaseOptions(time_limit=0.2))
    try:
        with pytest.raises(StorageUnavailable, match=r"in time|statement timeout"):
            await database.write(lambda connection: connection.execute(text("SELECT pg_sleep(30)")).close())
        assert await database.read(lambda connection: connection.scalar(text("SELECT 1"))) == 1
    finally:
        await database.close()


async def test_R13_a_server_that_hangs_is_away_and_works_again_afterwards(
    postgres: Postgres, postgres_url: str
) -> None:
    backend = await SqlBackend.postgres(postgres_url, DatabaseOptions(time_limit=1.0))
    document_id = await backend.document()
    await backend.log.heads([document_id])
    postgres.pause()
    try:
        calls = [backend.log.heads([document_id]), backend.log.append([an_append(document_id, FIRST, 2, b"x")])]
        async with asyncio.timeout(20):
            for result in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(result, DatabaseAway)
    finally:
        postgres.resume()
    results = await backend.log.append([an_append(document_id, FIRST, 2, b"x")])
    assert list(results) == [appended(document_id, 2, 2, FIRST_COMMIT)]
    await backend.close()


async def test_R13_connections_and_callers_are_bounded(postgres_url: str, postgres: Postgres) -> None:
    options = DatabaseOptions(time_limit=2.0, connections=4, max_waiting=6)
    database = PostgresDatabase(postgres_url, options)
    name = postgres_url.rpartition("/")[2]

    def sleep(connection: Connection) -> int:
        connection.execute(text("SELECT pg_sleep(0.3)"))
        (count,) = connection.execute(
            text("SELECT count(*) FROM pg_stat_activity WHERE datname = :name"), {"name": name}
        ).one()
        return int(count)

    try:
        calls = [asyncio.create_task(database.write(sleep)) for _ in range(6)]
        await asyncio.sleep(0)
        with pytest.raises(StorageUnavailable, match="more than 6"):
            await database.write(sleep)
        assert max(await asyncio.gather(*calls)) <= 2
    finally:
        await database.close()


async def test_busy_connections_are_not_a_database_that_is_away(postgres_url: str) -> None:
    database = PostgresDatabase(postgres_url, DatabaseOptions(time_limit=1.0, connections=2))
    sleeping = asyncio.create_task(
        database.write(lambda connection: connection.execute(text("SELECT pg_sleep(0.9)")).close())
    )
    await asyncio.sleep(0)
    try:
        with pytest.raises(StorageUnavailable, match="busy") as raised:
            await database.write(lambda _: None)
        assert not isinstance(raised.value, DatabaseAway)
    finally:
        await asyncio.wait([sleeping])
        await database.close()


async def test_a_failed_transaction_leaves_nothing_and_no_words_of_content(backend: SqlBackend) -> None:
    def broken(connection: Connection) -> None:
        connection.execute(insert(documents).values(id=None, name="secret words"))

    with pytest.raises(Rejected) as rejected:
        await backend.database.write(broken)
    with pytest.raises(StorageUnavailable) as unavailable:
        await backend.database.write(
            lambda connection: connection.execute(text("SELECT 'secret words' FROM nowhere")).close()
        )
    with pytest.raises(StorageError) as unfit:
        await backend.database.write(
            lambda connection: connection.execute(text("SELECT 'secret words'::integer")).close()
        )
    assert not isinstance(unfit.value, StorageUnavailable)
    assert not any("secret words" in str(each.value) for each in (rejected, unavailable, unfit))


async def test_a_cancelled_caller_leaves_a_whole_transaction(backend: SqlBackend) -> None:
    document_id = await backend.document()
    append = Append(document_id, FIRST, CommitId(2), [NewUpdate(b"a", None), NewUpdate(b"b", None)])
    for steps in range(12):
        task = asyncio.create_task(backend.log.append([append]))
        for _ in range(steps * 3):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        stored = await backend.log.load(document_id)
        assert stored is not None
        assert stored.head.seq in (1, 3)
    assert list(await backend.log.append([append])) == [appended(document_id, 2, 3, FIRST_COMMIT)]


async def test_migrations_make_the_schema_of_the_tables(backend: SqlBackend) -> None:
    assert await backend.database.read(differences) == []
    assert metadata.tables


async def test_a_graph_is_found_through_its_index(backend: SqlBackend) -> None:
    for _ in range(3):
        await backend.document()
    wanted = {"nodes": [{"kind": "quiz"}]}

    def fill(connection: Connection) -> None:
        ids = connection.scalars(select(courses.c.id)).all()
        for number, each in enumerate(ids):
            graph = {"nodes": [{"kind": "quiz" if number == 1 else "lesson", "title": f"{number}"}], "edges": []}
            connection.execute(courses.update().where(courses.c.id == each).values(graph=graph, graph_seq=1))

    def find(connection: Connection) -> tuple[int, str]:
        connection.execute(text("SET LOCAL enable_seqscan = off"))
        query = select(courses.c.id).where(type_coerce(courses.c.graph, JSONB).contains(wanted))
        plan = connection.execute(
            text("EXPLAIN SELECT id FROM courses WHERE graph @> CAST(:wanted AS jsonb)"), {"wanted": json.dumps(wanted)}
        )
        return len(connection.execute(query).all()), "\n".join(row[0] for row in plan)

    await backend.database.write(fill)
    found, plan = await backend.database.read(find)
    assert found == 1
    assert "ix_courses_graph" in plan


async def test_looking_up_repeated_commits_and_places_uses_indexes(backend: SqlBackend) -> None:
    document_id = await filled(backend, 5)

    def plans(connection: Connection) -> str:
        connection.execute(text("SET LOCAL enable_seqscan = off"))
        rows = [
            *connection.execute(text("EXPLAIN SELECT max(seq) FROM document_updates WHERE commit_id IN (1, 2, 3)")),
            *connection.execute(
                text(
                    "EXPLAIN SELECT commit_id FROM document_updates "
                    f"WHERE (document_id, seq) IN (('{document_id}', 1), ('{document_id}', 3))"
                )
            ),
        ]
        return "\n".join(row[0] for row in rows)

    plan = await backend.database.read(plans)
    assert "ix_document_updates_commit_id" in plan
    assert "pk_document_updates" in plan
    changes = await backend.log.changes(document_id, place(3, 99), 10)
    assert isinstance(changes, Changes)


async def test_a_connection_whose_transaction_did_not_begin_is_closed(postgres: Postgres, postgres_url: str) -> None:
    refused = select(func.set_config("lock_timeout", "nonsense", True))
    engine = create_engine(postgres_url, DEFAULT_OPTIONS, connections=1, bounds=refused)
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
    try:
        for _ in range(3):
            with pytest.raises(DBAPIError, match="lock_timeout"):
                async with engine.begin() as connection:
                    await connection.execute(text("SELECT 1"))
            assert postgres.sql(sessions) == ["0"]
    finally:
        await engine.dispose()


async def test_a_schema_that_changes_under_prepared_statements_heals(backend: SqlBackend) -> None:
    document_id = await backend.document()
    for commit in range(2, 5):
        await backend.log.append([an_append(document_id, FIRST, commit, b"x")])
    await backend.database.write(
        lambda connection: connection.execute(text("ALTER TABLE documents ALTER COLUMN head_seq TYPE numeric")).close()
    )
    await backend.database.write(
        lambda connection: connection.execute(text("ALTER TABLE documents ALTER COLUMN head_seq TYPE bigint")).close()
    )
    for commit in range(5, 12):
        with contextlib.suppress(StorageUnavailable):
            await backend.log.append([an_append(document_id, FIRST, commit, b"x")])
    assert list(await backend.log.append([an_append(document_id, FIRST, 20, b"x")]))
    assert await backend.log.load(document_id) is not None


async def test_a_text_with_nul_is_no_fault(backend: SqlBackend) -> None:
    assert await backend.accounts.credentials("a\0b@example.org") is None
    document_id = await backend.document()
    assert await backend.courses.set_derived(document_id, FIRST.seq, "a\0b")
    titles = await backend.database.read(lambda connection: connection.scalars(select(courses.c.title)).all())
    assert titles == ["a\N{REPLACEMENT CHARACTER}b"]
