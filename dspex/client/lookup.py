"""The errors for executions, batches and programs that do not exist, and for arguments that select nothing."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from uuid import UUID

from dspex.errors import ExecutionNotFound, FieldError, ProgramNotFound, ValidationError
from dspex.store import programs
from dspex.store.database import Database
from dspex.store.lifecycle.status import Status
from dspex.store.operations import retention
from dspex.store.partitions import moment

__all__ = ["batch_not_found", "check_arguments", "not_found", "program_not_found", "require_program"]

#: The largest limit that Postgres takes.
LIMIT_MOST = 2**63 - 1


def check_arguments(
    method: str, *, limit: object = 0, since: object = None, status: object = None, **texts: object
) -> None:
    """Raise ValidationError, with every fault, unless a method that reads can use these arguments."""
    if faults := list(_faults(limit, since, status, texts)):
        raise ValidationError.of(method, faults)


def _faults(limit: object, since: object, status: object, texts: dict[str, object]) -> Iterator[FieldError]:
    if isinstance(limit, bool) or not isinstance(limit, int) or not 0 <= limit <= LIMIT_MOST:
        yield FieldError("limit", f"an integer from 0 to {LIMIT_MOST}", repr(limit)[:80])
    if since is not None and (not isinstance(since, datetime) or since.utcoffset() is None):
        yield FieldError("since", "a datetime with a time zone", repr(since)[:80])
    if status is not None and status not in list(Status):
        yield FieldError("status", f"one of {', '.join(Status)}", repr(status)[:80])
    for name, value in texts.items():
        if value is not None and not isinstance(value, str):
            yield FieldError(name, "text", repr(value)[:80])


def not_found(database: Database, id: UUID) -> ExecutionNotFound:
    """The error, which says whether retention removed it: its id has the time of its submit."""
    floor = database.run(retention.floor)
    if floor is None or id >= floor:
        return ExecutionNotFound(f"no execution {str(id)!r}; `dspex list` shows the latest", execution_id=str(id))
    kept = database.run(partial(retention.floor, audit=True))
    trail = "; its audit trail is kept: `dspex audit export`" if kept is None or id >= kept else ""
    return ExecutionNotFound(
        f"no execution {str(id)!r}: retention removed settled executions submitted before "
        f"{moment(floor):%Y-%m-%d}{trail}",
        execution_id=str(id), removed_before=moment(floor).isoformat(),
    )  # fmt: skip


def batch_not_found(database: Database, id: UUID) -> ExecutionNotFound:
    """The error for a batch without stored rows, as is one of which every row was rejected. It says whether retention
    removed them."""
    floor = database.run(retention.floor)
    if floor is None or id >= floor:
        why = "; `dspex batches` lists the batches"
    else:
        why = f": retention removed settled executions submitted before {moment(floor):%Y-%m-%d}"
    return ExecutionNotFound(f"no execution of a batch {str(id)!r} is stored{why}", batch_id=str(id))


def program_not_found(database: Database, name: str) -> ProgramNotFound:
    """The error, with the nearest name."""
    near = difflib.get_close_matches(name, database.run(programs.names), 1, 0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "; deploy it with client.deploy or `dspex deploy`"
    return ProgramNotFound(f"no program {name!r} is deployed{hint}", program=name)


def require_program(database: Database, name: str) -> None:
    """Raise ProgramNotFound unless a program of this name is deployed, also one that cannot be read here."""
    if not database.run(partial(programs.exists, name=name)):
        raise program_not_found(database, name)
