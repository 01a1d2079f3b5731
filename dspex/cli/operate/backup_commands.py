"""``dspex backup`` and ``dspex restore``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from dspex.cli.open_database import open_database
from dspex.cli.output.console_tables import console
from dspex.cli.output.json_output import echo_json, json_option
from dspex.cli.output.plain_text import echo
from dspex.operations.backup.backup import back_up, manifest_path
from dspex.operations.backup.restore import restore as put_back
from dspex.settings import Settings, without_password
from dspex.store.database import Database

__all__ = ["backup", "restore"]


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path(),
    show_default="here",
    help="A file, or a directory for a file named dspex-TIME.dump.",
)
@json_option
def backup(output: Path, as_json: bool) -> None:
    """Write a backup of all DSPex data in Postgres to a file, with a manifest beside it. Workers continue meanwhile.

    The backup holds no keys: keep DSPEX_ENCRYPTION_KEY and other secrets elsewhere.

    \b
    Examples:
      dspex backup -o /var/backups/dspex
      dspex backup -o before-upgrade.dump
    """
    with open_database() as database, _progress() as on_progress:
        made = back_up(database, output, on_progress)
    if as_json:
        echo_json({"file": str(made.file), **asdict(made.manifest)})
        return
    manifest = made.manifest
    echo(f"{made.file}: {manifest.bytes} bytes, {manifest.rows['executions']} executions")
    echo(f"{manifest_path(made.file).name} is its manifest; keep both files together")


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Replace existing programs and executions.")
@json_option
def restore(file: Path, force: bool, as_json: bool) -> None:
    """Restore a backup into the database of DSPEX_DATABASE_URL, and verify it.

    The database must exist. Everything is restored or nothing. Unfinished executions continue once workers are
    running; the model calls in the backup are replayed.

    \b
    Examples:
      dspex restore dspex-20260131T020000Z.dump
      dspex restore --force before-upgrade.dump
    """
    settings = Settings.load()
    database = Database(settings.backends().database_url, application_name="dspex restore")
    try:
        with _progress() as on_progress:
            done = put_back(database, file, on_progress, force=force, keep_days=settings.retention_days)
    finally:
        database.close()
    if as_json:
        echo_json(asdict(done))
        return
    rows = done.manifest.rows
    echo(
        f"{without_password(database.url)}: {rows['executions']} executions and {rows['audit_events']} audit entries "
        f"as of {done.manifest.made_at}, all trails verified"
    )
    echo(f"{done.running} were running and {done.queued} queued: they continue with the next worker")
    if done.migrated_from is not None:
        echo(f"the schema was migrated from {done.migrated_from}")


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on a terminal, nothing elsewhere."""
    screen = console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bars:
        task = bars.add_task("", total=None)

        def on_progress(phase: str, done: int, total: int) -> None:
            bars.update(task, description=phase, completed=done, total=total or None)

        yield on_progress
