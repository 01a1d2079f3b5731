"""The error for an execution that does not exist."""

from __future__ import annotations

from functools import partial
from uuid import UUID

from dspex.errors import ExecutionNotFound
from dspex.store.database import Database
from dspex.store.operations import retention
from dspex.store.partitions import moment

__all__ = ["not_found"]


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
