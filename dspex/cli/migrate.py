"""``dspex migrate``."""

from __future__ import annotations

from functools import partial

import click

from dspex.settings import Settings, without_password
from dspex.store import migrate as migrations
from dspex.store.database import Database

__all__ = ["migrate"]


@click.command()
def migrate() -> None:
    """Bring the database's schema up to date; safe to run again, and at the same time elsewhere.

    Example: DSPEX_DATABASE_URL=postgresql://… dspex migrate
    """
    settings = Settings.load()
    backends = settings.backends()
    database = Database(backends.database_url)
    try:
        before, after = database.guard(partial(migrations.upgrade, keep_days=settings.retention_days))
    finally:
        database.close()
    where = without_password(backends.database_url)
    click.echo(
        f"{where}: " + (f"already at {after}" if before == after else f"migrated from {before or 'nothing'} to {after}")
    )
