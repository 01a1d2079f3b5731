"""A connection to Postgres that a test leaves open is found and named: :mod:`tests.left_open`."""

from __future__ import annotations

import psycopg

from dspex.settings import Backends
from tests.left_open import describe, resources


def test_a_connection_is_found_and_named(backends: Backends) -> None:
    before = resources()
    with psycopg.connect(backends.database_url):
        (left,) = resources() - before
        assert "psycopg.Connection" in describe(left)
    assert resources() - before == set()
