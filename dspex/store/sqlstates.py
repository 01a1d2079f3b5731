"""What an error of Postgres means: one table of SQLSTATE classes, which producers and workers read.

Postgres refuses statements for many reasons that pass: its disk is full, it restarts, two transactions conflict, an
operator cancels a query. Such a refusal changes nothing, and the same statement succeeds later. Only a statement whose
data is at fault is refused each time. https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

from __future__ import annotations

from enum import Enum

import psycopg

__all__ = ["CLASSES", "STATES", "Refusal", "is_disconnect", "reason", "refusal"]


class Refusal(Enum):
    """Why Postgres refuses a statement, and so what to do with it."""

    DATA = "the data is at fault: the same statement is refused each time"
    RETRY = "a conflict with another transaction: the same statement may succeed at once"
    WAIT = "the server, the connection or an operator: the same statement succeeds once that has passed"
    OURS = (
        "a bug, or a schema, a role or a setting that does not fit: the same statement succeeds once that is corrected"
    )


#: By the class, the first two characters of an SQLSTATE.
CLASSES = {
    "02": Refusal.OURS,  # no data
    "03": Refusal.OURS,  # statement not yet complete
    "08": Refusal.WAIT,  # connection exception
    "09": Refusal.DATA,  # triggered action exception
    "0A": Refusal.OURS,  # feature not supported; also a plan that was prepared before a migration
    "0B": Refusal.OURS,  # invalid transaction initiation
    "0F": Refusal.DATA,  # locator exception
    "0L": Refusal.OURS,  # invalid grantor
    "0P": Refusal.OURS,  # invalid role
    "0Z": Refusal.OURS,  # diagnostics exception
    "10": Refusal.DATA,  # XQuery error
    "20": Refusal.DATA,  # case not found
    "21": Refusal.DATA,  # cardinality violation
    "22": Refusal.DATA,  # data exception
    "23": Refusal.DATA,  # integrity constraint violation
    "24": Refusal.OURS,  # invalid cursor state
    "25": Refusal.OURS,  # invalid transaction state
    "26": Refusal.OURS,  # a prepared statement does not exist
    "27": Refusal.DATA,  # triggered data change violation
    "28": Refusal.WAIT,  # invalid authorization: a password that is being changed
    "2B": Refusal.OURS,  # dependent privileges
    "2D": Refusal.OURS,  # invalid transaction termination
    "2F": Refusal.OURS,  # SQL routine exception
    "34": Refusal.OURS,  # invalid cursor name
    "38": Refusal.OURS,  # external routine exception
    "39": Refusal.OURS,  # external routine invocation exception
    "3B": Refusal.OURS,  # savepoint exception
    "3D": Refusal.WAIT,  # the database does not exist: one that is being restored
    "3F": Refusal.OURS,  # the schema does not exist
    "40": Refusal.RETRY,  # transaction rollback: serialization failure, deadlock
    "42": Refusal.OURS,  # syntax, names and privileges
    "44": Refusal.DATA,  # a view's check option
    "53": Refusal.WAIT,  # insufficient resources: disk, memory, connections
    "54": Refusal.DATA,  # a limit of Postgres: a value is too large or too deeply nested
    "55": Refusal.WAIT,  # object not in prerequisite state: locked, in use, a standby
    "57": Refusal.WAIT,  # operator intervention: canceled, timed out, shutting down, starting
    "58": Refusal.WAIT,  # system error: the file system
    "72": Refusal.RETRY,  # snapshot too old
    "F0": Refusal.WAIT,  # configuration file error
    "HV": Refusal.WAIT,  # foreign data wrapper: another server
    "P0": Refusal.DATA,  # an exception that a function raised
    "XX": Refusal.WAIT,  # internal error, damaged data
}
#: States that differ from their class.
STATES = {
    "25006": Refusal.WAIT,  # read-only: a standby after a failover
    "25P03": Refusal.WAIT,  # idle_in_transaction_session_timeout
    "25P04": Refusal.WAIT,  # transaction_timeout
    "40002": Refusal.DATA,  # an integrity constraint that is checked at the commit
    "55P02": Refusal.OURS,  # a parameter that cannot be changed now
    "55P04": Refusal.OURS,  # a new value of an enum, in the transaction that adds it
}
#: The connection leads to no server that can be used: class 08, and these.
_DISCONNECTS = ("08", "57P", "53300", "25006", "25P03", "25P04")


def refusal(error: BaseException) -> Refusal:
    """The kind of an error of psycopg. A state that is not in the table is OURS: a trigger of the database raised it.

    An error without a state is psycopg's own: the connection is lost, or the values cannot be sent.
    """
    state = error.sqlstate if isinstance(error, psycopg.Error) else None
    if state is None:
        lost = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
        return Refusal.WAIT if lost else Refusal.DATA
    return STATES.get(state) or CLASSES.get(state[:2], Refusal.OURS)


def is_disconnect(error: psycopg.Error) -> bool:
    """Whether the connection cannot be used any more, rather than having refused one statement."""
    if error.sqlstate is None:
        return refusal(error) is Refusal.WAIT
    return error.sqlstate.startswith(_DISCONNECTS)


def reason(error: BaseException) -> str:
    """The first line of the error and its SQLSTATE. Of data at fault only its name: the text may quote a value."""
    state = f" (SQLSTATE {error.sqlstate})" if isinstance(error, psycopg.Error) and error.sqlstate else ""
    if refusal(error) is Refusal.DATA:
        return f"{type(error).__name__}{state}"
    return str(error).strip().split("\n")[0] + state
