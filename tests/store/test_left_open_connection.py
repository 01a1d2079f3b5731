"""A connection to Postgres that a test leaves open is found and named: :mod:`tests.left_open`."""

from __future__ import annotations

from typing import Any

import psycopg

from dspex.settings import Backends
from dspex.store.database import Database
from tests.left_open import describe, resources


def test_a_connection_is_found_and_named(backends: Backends) -> None:
    before = resources()
    with psycopg.connect(backends.database_url):
        (left,) = resources() - before
        assert "psycopg.Connection" in describe(left)
    assert resources() - before == set()


def test_a_connection_that_comes_back_after_the_close_is_closed(backends: Backends) -> None:
    database = Database(backends.database_url)
    with database.engine.connect() as connection:
        lent: Any = connection.connection.driver_connection
        database.close()
        assert not lent.closed, "what is under way ends"
    assert lent.closed
