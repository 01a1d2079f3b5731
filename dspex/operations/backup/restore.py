"""Restore of a backup: all or nothing, and checked against its manifest."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from dspex.errors import DspexError
from dspex.operations.audit.verify_audit import verify_trails
from dspex.operations.backup import pg_tools
from dspex.operations.backup.backup import Manifest, OnProgress, checksum
from dspex.settings import without_password
from dspex.store import guards, migrate, roles
from dspex.store.database import Database
from dspex.store.operations import backups, restoring

__all__ = ["Restored", "restore"]

#: The largest number of broken trails in an error.
MOST_NAMED = 5
_RESTORING = re.compile(r"processing data for table")


@dataclass(frozen=True, slots=True)
class Restored:
    """The result of a restore: the numbers of unfinished executions; ``migrated_from``: the older schema version."""

    manifest: Manifest
    running: int
    queued: int
    migrated_from: str | None


def restore(
    database: Database, file: Path, on_progress: OnProgress, *, force: bool = False, keep_days: int | None = None
) -> Restored:
    """Restore a backup into the database and verify it.

    A database with programs or executions is rejected unless ``force`` is given; then they are replaced. A database
    with live workers is always rejected. Raises DspexError and leaves the database as it was; raises
    ConfigurationError if everything is restored except the roles of producers, workers and readers.
    """
    manifest = Manifest.read(file)
    _check_file(file, manifest)
    _undo_interrupted(database)
    _check_target(database, force)
    _set_aside(database)
    try:
        _load(database.url, file, manifest, on_progress)
        on_progress("verifying", 0, 0)
        _verify(database, manifest)
        before, after = database.guard(partial(migrate.upgrade, keep_days=keep_days))
    except BaseException as error:
        _put_back_after(database, error)
        raise
    with database.transaction() as connection:
        backups.end_leases(connection)
        restoring.drop_aside(connection)
        counted = backups.unfinished(connection)
    if manifest.roles:
        with database.transaction() as connection:
            roles.ensure(connection)
    return Restored(manifest, counted.get("running", 0), counted.get("queued", 0), None if before == after else before)


def _check_file(file: Path, manifest: Manifest) -> None:
    if not file.is_file():
        raise _refused(f"{str(file)!r} does not exist")
    if manifest.schema > migrate.head():
        raise _refused(
            f"it was made by DSPex {manifest.dspex} (schema {manifest.schema}), and this version supports "
            f"{migrate.head()}: upgrade DSPex on this host"
        )
    if checksum(file) != manifest.sha256:
        raise DspexError(f"{str(file)!r} is damaged: its checksum is not the manifest's", code="backup_damaged")


def _check_target(database: Database, force: bool) -> None:
    held = database.run(backups.in_use)
    where = without_password(database.url)
    if workers := held.get("workers"):
        raise _refused(f"{workers} workers are alive at {where}: stop them first")
    if held and not force:
        what = ", ".join(f"{count} {name}" for name, count in held.items())
        raise _refused(f"{where} has {what}: restore into an empty database, or replace them with --force")


def _undo_interrupted(database: Database) -> None:
    """Undo a restore that was killed: bring back the old schema."""
    with database.transaction() as connection:
        present, aside = restoring.schemas(connection)
    if present and aside:
        raise _refused(
            f"a restore was interrupted at {without_password(database.url)}: the schema {restoring.ASIDE} holds the "
            "data from before it, the schema dspex the restored data. Drop the schema that you do not want; if that "
            f"is dspex, rename {restoring.ASIDE} to dspex"
        )
    if aside:
        _put_back(database)


def _set_aside(database: Database) -> None:
    with database.transaction() as connection:
        restoring.set_aside(connection)


def _put_back(database: Database) -> None:
    with database.transaction() as connection:
        restoring.put_back(connection)


def _put_back_after(database: Database, error: BaseException) -> None:
    """Undo a restore that failed. Raises DspexError with both reasons if that fails, too."""
    try:
        _put_back(database)
    except DspexError as unreachable:
        raise DspexError(
            f"the restore failed: {error}; and it could not be undone: {unreachable}. The data from before it, if "
            f"there was any, is in the schema {restoring.ASIDE}: run `dspex restore` again before any `dspex migrate`. "
            "It brings the data back, or names what to drop",
            code="restore_failed",
        ) from error


def _load(url: str, file: Path, manifest: Manifest, on_progress: OnProgress) -> None:
    done = 0

    def count(line: str) -> None:
        nonlocal done
        if _RESTORING.search(line):
            done += 1
            on_progress("restoring", done, 0)

    arguments = ["--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges", str(file)]
    pg_tools.run(pg_tools.find("pg_restore", manifest.postgres), url, arguments, count)


def _verify(database: Database, manifest: Manifest) -> None:
    rows = database.run(partial(backups.counts, tables=manifest.rows))
    if rows != manifest.rows:
        wrong = [
            f"{name}: {rows.get(name)} of {count}" for name, count in manifest.rows.items() if rows.get(name) != count
        ]
        raise _incomplete(f"rows are missing: {', '.join(wrong)}")
    if missing := database.run(guards.missing_triggers):
        raise _incomplete(f"triggers are missing: {', '.join(missing)}")
    broken = list(islice(verify_trails(database), MOST_NAMED))
    if broken:
        named = "; ".join(f"{id}: {', '.join(verdict.faults)}" for id, verdict in broken)
        raise _incomplete(f"audit trails are broken: {named}")


def _refused(why: str) -> DspexError:
    return DspexError(f"nothing was restored: {why}", code="restore_refused")


def _incomplete(why: str) -> DspexError:
    return DspexError(
        f"the restored data does not match the manifest, and was removed again: {why}", code="restore_failed"
    )
