"""Postgres roles with the least rights: what producers, workers and readers may do to each table, all in one place.

The roles cannot log in: an operator gives each application a login that is a member of one. Everything else (the
schema, and its functions, which run with their owner's rights) belongs to the role that migrates. Partitions need no
rights: statements name only their parents.

A producer cannot settle: to move an execution from ``queued`` to anything but ``cancelled`` needs a worker's id, and it
may not write that column, nor results. No role may change or delete an entry of the audit trail.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import psycopg
from sqlalchemy import Connection, Table, text
from sqlalchemy.exc import ProgrammingError

from dspex.errors import ConfigurationError
from dspex.store.tables import api_keys, lm_calls, metadata

__all__ = ["LOGIN_EXAMPLE", "OWNERS", "ROLES", "WRITES", "ensure", "grant", "in_use"]

PRODUCER, WORKER, READER = ROLES = ("dspex_producer", "dspex_worker", "dspex_reader")

#: How an application gets a login: psql statements for an operator to adapt.
LOGIN_EXAMPLE = f"CREATE ROLE my_app LOGIN IN ROLE {PRODUCER};\n\\password my_app"

#: The columns that a submit writes; workers write the others.
_SUBMITTED = (
    "id, program, version, status, priority, attempt, max_attempts, timeout_seconds, batch_id, batch_index, "
    "created_at, run_at, dispatched_at, inputs, metadata, stream, traceparent, route, same_as, tenant, purpose, "
    "audit_seq, audit_hash"
)
#: The columns that change when an execution is cancelled, queued again, or taken back from the queue.
_STEERED = (
    "status, max_attempts, run_at, dispatched_at, cancel_requested_at, finished_at, waiting_for, waiting_since, "
    "expires_at, audit_seq, audit_hash"
)
_RUN = (
    "held_at, attempt, lost_attempts, worker_id, started_at, deadline_at, adapter_used, result, error, metrics, "
    "action_results"
)
#: What changes when the outcome of a retried execution is to be sent, too.
_SENT_AGAIN = "delivered_at, dead_at, first_at, error, attempts, next_at, claimed_until, over_before"
#: What a child execution has besides.
_CHILD = "parent_id, depth"

#: Rights beyond reading. Each table is here or in OWNERS; a test fails when one is missing.
WRITES: Mapping[str, Mapping[str, str]] = {
    PRODUCER: {
        "programs": "INSERT, UPDATE",
        "program_versions": "INSERT, UPDATE (note, candidate)",
        "program_aliases": "INSERT, UPDATE",
        "rollouts": "INSERT, UPDATE (ended_at, reason, tripped)",
        "program_changes": "INSERT",
        "datasets": "INSERT",
        "dataset_rows": "INSERT",
        "budgets": "INSERT (program, limit_usd)",
        "idempotency_keys": "INSERT, DELETE",
        "schedules": "INSERT, UPDATE, DELETE",
        "webhook_deliveries": "INSERT, UPDATE, DELETE",
        "executions": f"INSERT ({_SUBMITTED}), UPDATE ({_STEERED})",
        "audit_events": "INSERT",
        "parked_calls": "UPDATE (decision), DELETE",
    },
    WORKER: {
        "programs": "UPDATE (paused_at, paused_reason, rollout_id, rollout_version)",
        "rollouts": "UPDATE (ended_at, reason, tripped)",
        "program_changes": "INSERT",
        "feedback": "DELETE",
        "budgets": "UPDATE (spent_usd, reserved_usd)",
        "budget_reservations": "INSERT, DELETE",
        "program_starts": "INSERT, DELETE",
        "idempotency_keys": "DELETE",
        "webhook_deliveries": f"UPDATE ({_SENT_AGAIN})",
        "executions": f"INSERT ({_SUBMITTED}, {_CHILD}), UPDATE ({_STEERED}, {_RUN})",
        "parked_calls": "INSERT, UPDATE, DELETE",
        "bundles": "INSERT, UPDATE, DELETE",
        "lm_calls": "INSERT, UPDATE (rejected)",
        "audit_events": "INSERT",
        "workers": "INSERT, UPDATE, DELETE",
        "leaderships": "INSERT, UPDATE, DELETE",
        "refused_messages": "INSERT, UPDATE, DELETE",
        "health_checks": "INSERT, DELETE",
        "alerts": "INSERT, UPDATE, DELETE",
        "alert_deliveries": "INSERT, UPDATE, DELETE",
        "backups": "DELETE",
    },
    READER: {},
}
#: Tables that only functions with their owner's rights write, and the owner: `dspex keys` runs as the owner.
OWNERS = frozenset({"api_keys", "periods"})

#: The function through which a producer appends feedback; the others are for workers.
_FEEDBACK = "append_feedback("

#: What models were asked and answered, and the hashes of keys: with one a session of the console can be forged.
_CALLS, _HASH = frozenset({"request", "response"}), frozenset({"hash"})
#: Only workers read the former, the other roles read inputs and results. Only producers read the latter.
_UNREAD = {(PRODUCER, lm_calls): _CALLS, (READER, lm_calls): _CALLS, (WORKER, api_keys): _HASH,
           (READER, api_keys): _HASH}  # fmt: skip


def ensure(connection: Connection) -> list[str]:
    """Make the roles that are missing, and :func:`grant`. Returns those made. Needs a transaction.

    Raises ConfigurationError when this user may not make roles.
    """
    asked = text("SELECT rolname FROM pg_roles WHERE rolname = ANY(:names)")
    there = set(connection.scalars(asked, {"names": [*ROLES]}))
    missing = [role for role in ROLES if role not in there]
    for role in missing:
        try:
            connection.exec_driver_sql(f"CREATE ROLE {role} NOLOGIN")
        except ProgrammingError as error:
            if not isinstance(error.orig, psycopg.errors.InsufficientPrivilege):
                raise
            statements = "; ".join(f"CREATE ROLE {each} NOLOGIN" for each in missing)
            raise ConfigurationError(
                "this user of Postgres may not make roles: have an administrator run "
                f"`{statements};`, and then run `dspex migrate --roles` again"
            ) from error
    grant(connection)
    return missing


def in_use(connection: Connection) -> bool:
    """Whether the roles were given rights here."""
    asked = text("""SELECT count(*) = :count FROM pg_roles
                    WHERE rolname = ANY(:names) AND has_schema_privilege(oid, 'dspex', 'USAGE')""")
    return bool(connection.scalar(asked, {"names": [*ROLES], "count": len(ROLES)}))


def grant(connection: Connection) -> None:
    """Give the roles the rights of this version, and take away all others that they had."""
    tables = ", ".join(map(str, metadata.tables))
    functions = connection.scalars(
        text("SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'dspex'::regnamespace AND prosecdef")
    ).all()
    for role in ROLES:
        connection.exec_driver_sql(f"REVOKE ALL ON {tables} FROM {role}")
        connection.exec_driver_sql(f"REVOKE ALL ON ALL FUNCTIONS IN SCHEMA dspex FROM {role}")
        connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA dspex TO {role}")
        connection.exec_driver_sql(f"GRANT SELECT ON dspex.schema_version TO {role}")
        for table in metadata.tables.values():
            granted = ", ".join(filter(None, (_select(role, table), WRITES[role].get(table.name))))
            connection.exec_driver_sql(f"GRANT {granted} ON {table} TO {role}")
    if functions:
        connection.exec_driver_sql(f"GRANT EXECUTE ON FUNCTION {', '.join(functions)} TO {WORKER}")
    _grant_feedback(connection, [name for name in functions if _FEEDBACK in name])


def _select(role: str, table: Table) -> str:
    """The right of a role to read a table: all of it, or all but a column."""
    unread = _UNREAD.get((role, table))
    if unread is None:
        return "SELECT"
    return f"SELECT ({', '.join(column.name for column in table.c if column.name not in unread)})"


def _grant_feedback(connection: Connection, functions: Sequence[str]) -> None:
    if functions:
        connection.exec_driver_sql(f"GRANT EXECUTE ON FUNCTION {', '.join(functions)} TO {PRODUCER}")
