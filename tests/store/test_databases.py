"""Tests use databases one after the other: what one of them leaves, the next one does not see."""

from __future__ import annotations

import psycopg
import pytest

from dspex.embedded.embedded_servers import EmbeddedServers
from tests.conftest import fresh_backends

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
    with fresh_backends(servers) as left, psycopg.connect(left.database_url) as connection:
        (_, periods) = connection.execute(COUNTS).fetchone() or ()
        connection.execute("INSERT INTO dspex.health_checks (overall, report) VALUES ('left', '{}')")
        connection.commit()
    with fresh_backends(servers) as taken, psycopg.connect(taken.database_url) as connection:
        assert taken.database_url == left.database_url
        assert connection.execute(COUNTS).fetchone() == (0, periods)


@pytest.mark.parametrize("statement", CHANGES.values(), ids=CHANGES)
def test_a_database_with_a_changed_schema_is_not_used_again(servers: EmbeddedServers, statement: str) -> None:
    with fresh_backends(servers) as changed, psycopg.connect(changed.database_url) as connection:
        connection.execute(statement.format(name=connection.info.dbname).encode())
        connection.commit()
    with fresh_backends(servers) as taken:
        assert taken.database_url != changed.database_url
