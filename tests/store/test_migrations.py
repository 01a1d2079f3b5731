"""The schema: what the migrations make is what the code expects."""

from __future__ import annotations

import re

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, create_engine, text

from dspex.settings import Backends
from dspex.store import migrate
from dspex.store.database import Database
from dspex.store.tables import SCHEMA, metadata

PARTITION = re.compile(r"(executions|lm_calls|audit_events)_(default|20\d\d_\d\d_\d\d)")


def test_the_migrations_make_the_tables_of_the_code(backends: Backends) -> None:
    def included(name: str | None, kind: str, parents: object) -> bool:
        return name == SCHEMA if kind == "schema" else not (name == "schema_version" or PARTITION.match(name or ""))

    # The role and the schema have one name: without a search path the schema would pass for the default one.
    engine = create_engine(backends.database_url, connect_args={"options": "-c search_path=public"})
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_schemas": True, "include_name": included})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_migrating_again_changes_nothing(database: Database) -> None:
    head = migrate.head()
    assert migrate.upgrade(database.engine) == (head, head)


def test_migrating_while_another_session_reads_leaves_the_partitions_to_upkeep(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    head = migrate.head()

    def coming(connection: Connection) -> list[str]:
        names = text("SELECT name FROM dspex.periods WHERE low > dspex.first_id(now()) ORDER BY low DESC")
        return list(connection.scalars(names))

    with database.transaction() as connection:
        names = coming(connection)
        for name in names:
            connection.execute(text("SELECT dspex.unmake_period(:name)"), {"name": name})
    with database.engine.connect() as reading:  # as pg_dump does
        reading.execute(text("SELECT count(*) FROM dspex.executions"))
        assert migrate.upgrade(database.engine) == (head, head)
        assert "partitions are not made" in caplog.text
        assert database.run(coming) == []
    migrate.upgrade(database.engine)
    assert database.run(coming) == names
