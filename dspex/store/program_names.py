"""Names for shell completion, read without SQLAlchemy, which takes too long to import at a prompt."""

from __future__ import annotations

import psycopg

from dspex.errors import BackendUnavailable
from dspex.settings import without_password
from dspex.store.sessions import connect_arguments, libpq_url

__all__ = ["programs_beginning"]

_BEGINNING = "SELECT name FROM dspex.programs WHERE starts_with(name, %s) ORDER BY name LIMIT 200"


def programs_beginning(url: str, prefix: str, *, seconds: int) -> list[str]:
    """The programs whose names begin with a prefix. Raises BackendUnavailable when Postgres does not answer in time."""
    arguments = connect_arguments(url, "dspex completion", statement_timeout=str(seconds * 1000))
    try:
        with psycopg.connect(
            libpq_url(url), autocommit=True, **{**arguments, "connect_timeout": seconds}
        ) as connection:
            return [name for (name,) in connection.execute(_BEGINNING, (prefix,))]
    except psycopg.Error as error:
        raise BackendUnavailable(f"Postgres at {without_password(url)} does not answer: {error}") from error
