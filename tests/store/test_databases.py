"""Tests use databases one after the other: what one of them leaves, the next one does not see."""

from __future__ import annotations

from contextlib import closing

import psycopg
import pytest

from dspex.embedded.embedded_servers import EmbeddedServers
from tests.conftest import fresh_backends
from tests.databases import TestDatabases

CHANGES = {
    "a trigger": "ALTER TABLE dspex.audit_events DISABLE TRIGGER USER",
    "a function": "CREATE FUNCTION dspex.one() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "a right": "GRANT SELECT ON dspex.programs TO PUBLIC",
    "a partition": "DROP TABLE dspex.audit_events_default",
    "a setting": "ALTER DATABASE {name} SET timezone TO 'Asia/Tokyo'",
    "everything": "DROP SCHEMA dspex CASCADE",
    "a column": "ALTER TABLE dspex.backups ADD COLUMN note text",
}
COUNTS = """
SELECT (SELECT count(*) FROM dspex.health_checks), (SELECT count(*) FROM dspex.periods)
"""


def test_rows_are_removed(servers: EmbeddedServers) -> None:
    with closing(TestDatabases(servers, "own")) as databases:
        left = databases.take()
        with psycopg.connect(databases.url(left)) as connection:
            (_, periods) = connection.execute(COUNTS).fetchone() or ()
            connection.execute("INSERT INTO dspex.health_checks (overall, report) VALUES ('left', '{}')")
            connection.commit()
        databases.give_back(left)
        assert databases.take() == left
        with psycopg.connect(databases.url(left)) as connection:
            assert connection.execute(COUNTS).fetchone() == (0, periods)


@pytest.mark.parametrize("statement", CHANGES.values(), ids=CHANGES)
def test_a_database_with_a_changed_schema_is_not_used_again(servers: EmbeddedServers, statement: str) -> None:
    with fresh_backends(servers) as changed, psycopg.connect(changed.database_url) as connection:
        connection.execute(statement.format(name=connection.info.dbname).encode())
        connection.commit()
    with fresh_backends(servers) as taken:
        assert taken.database_url != changed.database_url
