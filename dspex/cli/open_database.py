"""The database, for commands that need no client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dspex.settings import Settings
from dspex.store import migrate
from dspex.store.database import Database

__all__ = ["open_database"]


@contextmanager
def open_database(settings: Settings | None = None) -> Iterator[Database]:
    """Open the configured database after a check of its schema. Raises BackendUnavailable or SchemaOutdated."""
    backends = (settings or Settings.load()).backends()
    database = Database(backends.database_url, application_name="dspex command")
    try:
        database.run(migrate.check)
        yield database
    finally:
        database.close()
