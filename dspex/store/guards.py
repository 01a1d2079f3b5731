"""The triggers that protect the audit trail and the transitions of executions."""

from __future__ import annotations

from uuid import UUID

import psycopg
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from dspex.store.database import Database

__all__ = ["TRIGGERS", "changes_accepted", "missing_triggers"]

TRIGGERS = frozenset(
    {
        "audit_events_append_only", "audit_events_no_truncate", "audit_events_of_transitions", "executions_transition",
    }
)  # fmt: skip

_ENABLED = text("""
SELECT t.tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'dspex' AND NOT t.tgisinternal GROUP BY t.tgname HAVING bool_and(t.tgenabled = 'O')
""")
_CHANGES = {
    "UPDATE": text("UPDATE dspex.audit_events SET attempt = 9 WHERE execution_id = :id"),
    "DELETE": text("DELETE FROM dspex.audit_events WHERE execution_id = :id"),
}


def missing_triggers(connection: Connection) -> list[str]:
    """The triggers that are missing, or disabled on any partition."""
    return sorted(TRIGGERS - set(connection.scalars(_ENABLED)))


def changes_accepted(database: Database, execution_id: UUID) -> list[str]:
    """Try to change the audit trail of an execution; returns the statements that Postgres did not refuse.

    Each is tried in a transaction that is rolled back.
    """
    accepted = []
    for name, statement in _CHANGES.items():
        with database.engine.connect() as connection:  # closed without a commit: rolled back
            try:
                connection.execute(statement, {"id": execution_id})
            except DBAPIError as error:
                if not isinstance(error.orig, psycopg.errors.InsufficientPrivilege):
                    raise
                continue
            accepted.append(name)
    return accepted
