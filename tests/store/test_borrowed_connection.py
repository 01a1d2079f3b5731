"""A submit on a psycopg connection of the caller: part of its transaction, which is left to the caller."""

from __future__ import annotations

import psycopg
import pytest

import dspex
from dspex.client.client import Client
from dspex.settings import Backends


def test_a_submit_is_part_of_a_transaction_of_psycopg(
    client: Client, backends: Backends, caplog: pytest.LogCaptureFixture
) -> None:
    client.deploy(dspex.Program("qa", dspex.signature("question -> answer"), adapter="scripted"))
    with psycopg.connect(backends.database_url) as connection:
        connection.execute("CREATE TABLE public.orders (id int)")
        connection.commit()
        connection.execute("INSERT INTO public.orders VALUES (1)")
        taken = client.submit("qa", {"question": "?"}, connection=connection, idempotency_key="order-1")
        again = client.submit("qa", {"question": "?"}, connection=connection, idempotency_key="order-1")
        assert again.id == taken.id
        assert client.list() == []
        connection.rollback()
        with pytest.raises(dspex.ExecutionNotFound):
            client.get(taken.id)
        with connection.transaction():
            kept = client.submit("qa", {"question": "?"}, connection=connection)
            connection.execute("INSERT INTO public.orders VALUES (2)")
        assert client.get(kept.id).status is dspex.Status.QUEUED
        assert connection.execute("SELECT id FROM public.orders").fetchall() == [(2,)]
        assert not connection.closed
        with caplog.at_level("INFO", "sqlalchemy.dialects.postgresql"):
            connection.execute("DO $$ BEGIN RAISE NOTICE 'hello'; END $$")
        assert caplog.records == [], "a handler of notices was left on the connection"
        connection.execute("DROP TABLE public.orders")
        connection.commit()
