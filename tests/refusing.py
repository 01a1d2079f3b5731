"""Postgres that refuses some writes for a while, as it does when its disk is full or an operator cancels a query."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import text

from dspex.store.database import Database

__all__ = ["Refusing"]

#: A sequence counts what is refused: it is not rolled back.
_SETUP = """
CREATE SEQUENCE public.refusals;
CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF nextval('public.refusals') <= TG_ARGV[1]::bigint THEN
        RAISE EXCEPTION 'refused for a while' USING ERRCODE = TG_ARGV[0];
    END IF;
    RETURN NEW;
END $$
"""


class Refusing:
    """Triggers that refuse writes of a test's database with an SQLSTATE."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._numbers = itertools.count(1)
        self._execute(_SETUP)

    @contextmanager
    def refuse(self, table: str, state: str, *, when: str = "true", most: int = 10**9) -> Iterator[None]:
        """Refuse each row of this table for which ``when`` holds, for as long as the block lasts, ``most`` times."""
        name = f"refusal_{next(self._numbers)}"
        self._execute(
            f"CREATE TRIGGER {name} BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW WHEN ({when})"
            f" EXECUTE FUNCTION public.refuse('{state}', '{self.count + most}')"
        )
        try:
            yield
        finally:
            self._execute(f"DROP TRIGGER {name} ON {table}")

    @property
    def count(self) -> int:
        """How many rows were refused so far."""
        return int(
            self._database.run(
                lambda connection: connection.scalar(
                    text("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM public.refusals")
                )
            )
        )

    def has_refused(self, rows: int) -> bool:
        return self.count > rows

    def _execute(self, statement: str) -> None:
        self._database.run(lambda connection: connection.exec_driver_sql(statement))
