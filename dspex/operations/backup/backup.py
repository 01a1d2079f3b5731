"""A backup: the output of pg_dump for the schema, and beside it a manifest, which a restore is checked against."""

from __future__ import annotations

import hashlib
import json
import re
import socket
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

from dspex.errors import BackendUnavailable, DspexError
from dspex.operations.backup import pg_tools
from dspex.settings import without_password
from dspex.store import migrate, roles
from dspex.store.database import Database
from dspex.store.facts import server_facts
from dspex.store.operations import backups

__all__ = ["Backup", "Manifest", "back_up", "checksum", "manifest_path"]

#: Called with the current phase, the number of finished items, and the total.
OnProgress = Callable[[str, int, int], None]
_DUMPING = re.compile(r"dumping contents of table")


@dataclass(frozen=True, slots=True)
class Manifest:
    """The contents of a backup: ``rows`` by table, counted in the snapshot of the dump. Earlier versions
    counted some of the tables.

    ``roles``: whether the roles of producers, workers and readers had privileges; a restore grants them again.
    """

    dspex: str
    schema: str
    postgres: int
    made_at: str
    source: str
    rows: dict[str, int]
    roles: bool
    bytes: int
    sha256: str

    @staticmethod
    def read(file: Path) -> Manifest:
        """The manifest of a backup. Raises DspexError if it is missing or invalid."""
        path = manifest_path(file)
        try:
            return Manifest(**json.loads(path.read_text()))
        except FileNotFoundError:
            raise DspexError(
                f"{str(path)!r} is missing: a backup is restored with its manifest", code="backup_damaged"
            ) from None
        except (OSError, ValueError, TypeError) as error:
            raise DspexError(f"{str(path)!r} is not a manifest: {error}", code="backup_damaged") from error


@dataclass(frozen=True, slots=True)
class Backup:
    """A finished backup."""

    file: Path
    manifest: Manifest


def back_up(database: Database, output: Path, on_progress: OnProgress) -> Backup:
    """Write a backup, and record its success or failure in the database.

    ``output`` is a file, or a directory for a file named ``dspex-TIME.dump``. Raises ConfigurationError if there is no
    suitable pg_dump, and DspexError if the backup fails; no file is left then.
    """
    at = datetime.now(UTC)
    file = (output / f"dspex-{at:%Y%m%dT%H%M%SZ}.dump" if output.is_dir() else output).absolute()
    try:
        made = _write(database, file, at, on_progress)
    except (DspexError, OSError) as error:
        reason = f"{str(file)!r} cannot be written: {error.strerror}" if isinstance(error, OSError) else str(error)
        unrecorded = _record_failure(database, file, reason)
        if isinstance(error, BackendUnavailable):
            raise
        raise DspexError(f"no backup was made: {reason}{unrecorded}", code="backup_failed") from error
    _record(database, file, made=made)
    return made


def manifest_path(file: Path) -> Path:
    """The path of the manifest of a backup."""
    return file.with_name(file.name + ".json")


def checksum(file: Path) -> str:
    """The SHA-256 of a file."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _write(database: Database, file: Path, at: datetime, on_progress: OnProgress) -> Backup:
    if file.exists():
        raise DspexError(f"{str(file)!r} already exists: name a new file, or a directory")
    unfinished = file.with_name(f".{file.name}.part")
    unfinished.touch(mode=0o600)
    try:
        # pg_dump and the counts see the same snapshot.
        with database.transaction(snapshot=True) as connection:
            snapshot = backups.export_snapshot(connection)
            postgres = server_facts.major_version(connection)
            tables = backups.count_tables(connection)
            _dump(database.url, unfinished, snapshot, postgres, lambda done: on_progress("dumping", done, tables))
            on_progress("counting", 0, 0)
            rows = dict(backups.counts(connection))
            schema = migrate.current(connection) or ""
            with_roles = roles.in_use(connection)
        manifest = Manifest(
            dspex=version("dspex"), schema=schema, postgres=postgres, made_at=at.isoformat(timespec="seconds"),
            source=without_password(database.url), rows=rows, roles=with_roles, bytes=unfinished.stat().st_size,
            sha256=checksum(unfinished),
        )  # fmt: skip
        _place(unfinished, file, manifest)
    finally:
        unfinished.unlink(missing_ok=True)
    return Backup(file, manifest)


def _place(unfinished: Path, file: Path, manifest: Manifest) -> None:
    """Write the manifest, and name the finished dump; neither is left if one fails."""
    try:
        manifest_path(file).write_text(json.dumps(asdict(manifest), indent=2) + "\n")
        unfinished.replace(file)
    except OSError:
        manifest_path(file).unlink(missing_ok=True)
        raise


def _dump(url: str, file: Path, snapshot: str, major: int, on_table: Callable[[int], None]) -> None:
    done = 0

    def count(line: str) -> None:
        nonlocal done
        if _DUMPING.search(line):
            done += 1
            on_table(done)

    arguments = ["--format=custom", "--schema=dspex", "--no-owner", "--no-privileges", f"--snapshot={snapshot}"]
    pg_tools.run(pg_tools.find("pg_dump", major), url, [*arguments, f"--file={file}"], count)


def _record_failure(database: Database, file: Path, reason: str) -> str:
    """Record that no backup was made. Returns what to add to its error if that is not possible."""
    try:
        _record(database, file, error=reason)
    except DspexError as error:
        return f"; this is not recorded either: {error}"
    return ""


def _record(database: Database, file: Path, *, made: Backup | None = None, error: str | None = None) -> None:
    work = partial(
        backups.record, ok=made is not None, host=socket.gethostname(), path=str(file), error=error,
        bytes=made.manifest.bytes if made else None, sha256=made.manifest.sha256 if made else None,
    )  # fmt: skip
    database.run(work, saved="the backup was made, but is not recorded")
