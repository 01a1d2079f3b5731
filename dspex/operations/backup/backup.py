"""A backup: what pg_dump writes of the schema, and beside it a manifest that a restore is compared with."""

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

from dspex.errors import DspexError
from dspex.operations.backup import pg_tools
from dspex.settings import without_password
from dspex.store import migrate, roles
from dspex.store.database import Database
from dspex.store.facts import server_facts
from dspex.store.operations import backups

__all__ = ["Backup", "Manifest", "back_up", "checksum", "manifest_path"]

#: Told what is under way, and how much of how much is done.
Told = Callable[[str, int, int], None]
_DUMPING = re.compile(r"dumping contents of table")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup holds: ``rows`` by table, as they were at the very moment of the dump.

    ``roles`` says whether the roles of producers, workers and readers had rights there; a restore gives them again.
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
        """The manifest of a backup. Raises DspexError when it is not there, or is none."""
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
    """A backup that was made."""

    file: Path
    manifest: Manifest


def back_up(database: Database, output: Path, told: Told) -> Backup:
    """Write a backup, and record in the database that it was made, or that it failed.

    ``output`` is a file, or a directory to put ``dspex-TIME.dump`` in. Raises ConfigurationError when no pg_dump fits,
    DspexError when it fails; there is no file then.
    """
    at = datetime.now(UTC)
    file = (output / f"dspex-{at:%Y%m%dT%H%M%SZ}.dump" if output.is_dir() else output).absolute()
    try:
        made = _write(database, file, at, told)
    except (DspexError, OSError) as error:
        reason = f"{str(file)!r} cannot be written: {error.strerror}" if isinstance(error, OSError) else str(error)
        _record(database, file, error=reason)
        raise DspexError(f"no backup was made: {reason}", code="backup_failed") from error
    _record(database, file, made=made)
    return made


def manifest_path(file: Path) -> Path:
    """Where the manifest of a backup is."""
    return file.with_name(file.name + ".json")


def checksum(file: Path) -> str:
    """The SHA-256 of a file."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _write(database: Database, file: Path, at: datetime, told: Told) -> Backup:
    if file.exists():
        raise DspexError(f"{str(file)!r} is there already")
    unfinished = file.with_name(f".{file.name}.part")
    unfinished.touch(mode=0o600)
    try:
        # pg_dump and the counts see the same snapshot.
        with database.transaction(snapshot=True) as connection:
            snapshot = backups.export_snapshot(connection)
            postgres = server_facts.major_version(connection)
            tables = backups.count_tables(connection)
            _dump(database.url, unfinished, snapshot, postgres, lambda done: told("dumping", done, tables))
            told("counting", 0, 0)
            rows = dict(backups.counts(connection))
            schema = migrate.current(connection) or ""
            with_roles = roles.in_use(connection)
        manifest = Manifest(
            dspex=version("dspex"), schema=schema, postgres=postgres, made_at=at.isoformat(timespec="seconds"),
            source=without_password(database.url), rows=rows, roles=with_roles, bytes=unfinished.stat().st_size,
            sha256=checksum(unfinished),
        )  # fmt: skip
        manifest_path(file).write_text(json.dumps(asdict(manifest), indent=2) + "\n")
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)
    return Backup(file, manifest)


def _dump(url: str, file: Path, snapshot: str, major: int, told: Callable[[int], None]) -> None:
    done = 0

    def count(line: str) -> None:
        nonlocal done
        if _DUMPING.search(line):
            done += 1
            told(done)

    arguments = ["--format=custom", "--schema=dspex", "--no-owner", "--no-privileges", f"--snapshot={snapshot}"]
    pg_tools.run(pg_tools.find("pg_dump", major), url, [*arguments, f"--file={file}"], count)


def _record(database: Database, file: Path, *, made: Backup | None = None, error: str | None = None) -> None:
    work = partial(
        backups.record, ok=made is not None, host=socket.gethostname(), path=str(file), error=error,
        bytes=made.manifest.bytes if made else None, sha256=made.manifest.sha256 if made else None,
    )  # fmt: skip
    database.run(work, saved="that the backup was made is not on record")
