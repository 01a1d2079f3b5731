"""Upkeep: create partitions ahead of time, and remove expired data.

Every step is idempotent and safe to run concurrently. A step that cannot run now (executions hold a lock, a disk is
full, Postgres refuses it) is left to the next upkeep, and the others run all the same.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from uuid import UUID

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from dspex.errors import BackendUnavailable, DspexError, SchemaOutdated
from dspex.operations.audit import audit_export
from dspex.settings.storage_settings import StorageSettings
from dspex.store import partitions
from dspex.store.database import Database
from dspex.store.facts import server_facts
from dspex.store.lifecycle.set_statements import for_each_row
from dspex.store.operations import retention
from dspex.store.operations.retention import Period

__all__ = ["Plan", "Step", "plan", "requests_expired_at", "upkeep"]

#: Executions outside their period are exported and deleted in chunks of this size.
STRAY_ROWS = 1000
#: The largest number of statements that remove rows of one kind in one upkeep; the next one continues.
PRUNE_ROUNDS = 200


@dataclass(frozen=True, slots=True)
class Plan:
    """A period, and when its executions and its audit trails expire; None for never."""

    period: Period
    executions_go_at: datetime | None
    audit_goes_at: datetime | None


@dataclass(frozen=True, slots=True)
class Step:
    """A step that was done, or, with ``waits``, one that the next upkeep will try again."""

    what: str
    waits: bool = False


def plan(database: Database, settings: StorageSettings) -> list[Plan]:
    """All periods, oldest first, and when they expire."""

    def after(period: Period, days: int | None) -> datetime | None:
        return None if days is None else partitions.moment(period.high) + timedelta(days=days)

    return [
        Plan(period, after(period, settings.retention_days), after(period, settings.audit_kept_days))
        for period in database.run(retention.periods)
    ]


def upkeep(database: Database, settings: StorageSettings) -> Iterator[Step]:
    """Create partitions, remove expired data, and yield each step. Raises BackendUnavailable."""
    now = database.run(server_facts.now)
    yield from _try("partitions", lambda: _make(database, settings))
    for planned in plan(database, settings):
        yield from _retire(database, settings, planned, now)
    if settings.audit_kept_days is not None:  # their trails go with them
        before = now - timedelta(days=settings.audit_kept_days)
        yield from _try("executions outside their period", lambda: _remove_strays(database, settings, before))
    requests_go_before = requests_expired_at(settings, now)
    if requests_go_before is not None:
        remove = partial(retention.remove_requests, recorded_before=requests_go_before)
        yield from _try("recorded requests", lambda: _remove_rows(database, "recorded requests", remove))
    for name in retention.PRUNED:
        yield from _try(name, partial(_remove_rows, database, name, partial(retention.prune, name=name)))


def requests_expired_at(settings: StorageSettings, now: datetime) -> datetime | None:
    """Recorded requests from before this time are removed; None for never."""
    days = settings.request_retention_days
    return None if days is None else now - timedelta(days=days)


def _try(what: str, work: Callable[[], Iterator[Step]]) -> Iterator[Step]:
    try:
        yield from work()
    except BackendUnavailable as error:
        if "sqlstate" not in error.details:  # the connection is lost, rather than this step refused
            raise
        yield Step(f"{what}: {error.details['reason']}; the next upkeep tries again", waits=True)
    except DBAPIError as error:
        yield Step(f"{what}: {str(error.orig).splitlines()[0]}; the next upkeep tries again", waits=True)
    except SchemaOutdated:
        raise
    except DspexError as error:
        yield Step(f"{what}: {error}", waits=True)


def _make(database: Database, settings: StorageSettings) -> Iterator[Step]:
    made = database.run(partial(partitions.ensure, keep_days=settings.retention_days))
    if made:
        yield Step(f"created the partitions of {', '.join(made)}")


def _retire(database: Database, settings: StorageSettings, planned: Plan, now: datetime) -> Iterator[Step]:
    period = planned.period
    if planned.executions_go_at is not None and planned.executions_go_at <= now and period.digest is None:
        settled_before = now - timedelta(days=settings.retention_days or 0)
        yield from _try(f"executions of {period.name}", lambda: _retire_executions(database, period, settled_before))
        period = next(p for p in database.run(retention.periods) if p.name == period.name)
    due = planned.audit_goes_at is not None and planned.audit_goes_at <= now
    if due and period.digest is not None and period.audit_retired_at is None:
        yield from _try(f"audit trails of {period.name}", lambda: _retire_audit(database, settings, period))
    elif period.leftovers:
        yield from _try(f"the rest of {period.name}", lambda: _drop(database, period))


def _retire_executions(database: Database, period: Period, settled_before: datetime) -> Iterator[Step]:
    retire = partial(retention.retire_executions, period=period.name, settled_before=settled_before)
    kept = database.run(retire)
    database.run(partial(retention.digest, period=period.name))
    database.run(partial(retention.drop, period=period.name))
    stay = f"; kept {kept} of them, which are not settled, or were settled lately" if kept else ""
    yield Step(f"removed the executions of {period.name}{stay}")


def _retire_audit(database: Database, settings: StorageSettings, period: Period) -> Iterator[Step]:
    where = None
    if settings.retention_export is not None:
        path = settings.retention_export / f"dspex-audit-{period.name}.jsonl.gz"
        _export_period(database, period, path)
        where = f"{socket.gethostname()}:{path}"
        yield Step(f"exported the audit trails of {period.name} to {where}")
    database.run(partial(retention.retire_audit, period=period.name, export=where))
    database.run(partial(retention.drop, period=period.name))
    yield Step(f"removed the audit trails of {period.name}")


def _export_period(database: Database, period: Period, path: Path) -> None:
    """Export the trails of a period, if they match its digest."""
    assert period.digest is not None
    chains = audit_export.retired_chains(database, UUID(int=period.low.int - 1), period.high)
    try:
        audit_export.export(path, chains, about={"period": period.name}, expected=period.digest.hex())
    except DspexError as error:
        if error.code != "audit_not_whole":
            raise
        raise DspexError(
            f"{error} ({period.executions} expected): neither exported nor removed; see `dspex audit verify`",
            code=error.code,
        ) from error


def _drop(database: Database, period: Period) -> Iterator[Step]:
    database.run(partial(retention.drop, period=period.name))
    yield Step(f"dropped the rest of {period.name}")


def _remove_strays(database: Database, settings: StorageSettings, before: datetime) -> Iterator[Step]:
    removed = 0
    while ids := database.run(partial(retention.strays, settled_before=before, most=STRAY_ROWS)):
        if settings.retention_export is not None:
            path = settings.retention_export / f"dspex-audit-{ids[0]}.jsonl.gz"
            chains = audit_export.chains_of(database, ids)
            if len(chains) < len(ids):
                break  # another upkeep is deleting them
            audit_export.export(path, chains, about={"outside_of_periods": True})
        deleted, faults = for_each_row(partial(_delete_strays, database, before), ids)
        removed += len(deleted)
        for fault in faults:
            yield Step(f"execution {fault.row}, outside its period: Postgres refuses it: {fault.reason}", waits=True)
        if faults or not deleted:
            break
    if removed:
        yield Step(f"removed {removed} executions outside their period")


def _delete_strays(database: Database, settled_before: datetime, ids: Sequence[UUID]) -> Sequence[int]:
    """Delete these, unless they were retried. The result has an item for each that was deleted."""
    return range(database.run(partial(retention.delete_strays, ids=ids, settled_before=settled_before)))


def _remove_rows(database: Database, name: str, remove: Callable[[Connection], int]) -> Iterator[Step]:
    removed = 0
    for _ in range(PRUNE_ROUNDS):
        count = database.run(remove)
        removed += count
        if count < retention.PRUNE_ROWS:
            break
    if removed:
        yield Step(f"removed {removed} {name}")
