"""What a producer sees while Postgres refuses its statements."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError

import dspex
from dspex.client.client import Client
from dspex.errors import BackendUnavailable
from dspex.settings import Backends
from dspex.store.database import CONFLICT_PAUSES, Database
from dspex.submit.prepare import RUN_AFTER, RUN_BEFORE
from tests.refusing import Refusing

QA = dspex.Program("qa", dspex.signature("question -> answer"), adapter="scripted")


@pytest.fixture
def refusing(database: Database, client: Client) -> Refusing:
    client.deploy(QA)
    return Refusing(database)


def submit(client: Client) -> object:
    return client.submit("qa", {"question": "?"})


def submit_batch(client: Client) -> object:
    return client.submit_many("qa", [{"question": "?"}])


@pytest.mark.parametrize("work", [submit, submit_batch])
def test_a_refusal_is_an_error_of_dspex_with_its_reason(
    client: Client, refusing: Refusing, work: Callable[[Client], object]
) -> None:
    for state in ("53100", "57014", "55P03", "58030", "XX000", "40P01"):
        with refusing.refuse("dspex.executions", state), pytest.raises(BackendUnavailable) as refused:
            work(client)
        assert refused.value.retryable
        assert refused.value.details["sqlstate"] == state
        message = str(pickle.loads(pickle.dumps(refused.value)))
        assert "refuses this for now" in message
        assert "nothing was saved" in message or "these rows are not stored" in message
        assert f"refused for a while (SQLSTATE {state})" in message
    assert client.list() == []
    work(client)
    assert len(client.list()) == 1


def test_the_first_and_the_last_time_that_a_submit_may_name_are_stored(client: Client, database: Database) -> None:
    client.deploy(QA)
    near = timedelta(microseconds=1)
    for run_at in (RUN_AFTER + near, RUN_BEFORE - near):
        client.submit("qa", {"question": "?"}, run_at=run_at)
        client.submit_many("qa", [{"question": "?"}], run_at=run_at)
    for run_at in (RUN_AFTER, RUN_BEFORE):
        with pytest.raises(dspex.ValidationError, match="run_at"):
            client.submit("qa", {"question": "?"}, run_at=run_at)
        with pytest.raises(dspex.ValidationError, match="run_at"):
            client.submit_many("qa", [{"question": "?"}], run_at=run_at)
        with pytest.raises(IntegrityError, match="check constraint"), database.transaction() as connection:
            connection.execute(text("UPDATE dspex.executions SET run_at = :run_at"), {"run_at": run_at})
    assert len(client.list()) == 4


def test_a_conflict_is_tried_again(client: Client, refusing: Refusing) -> None:
    with refusing.refuse("dspex.executions", "40001", most=len(CONFLICT_PAUSES)):
        submit(client)
    assert refusing.count == len(CONFLICT_PAUSES) + 1


def test_data_at_fault_and_a_bug_are_raised_as_they_are(database: Database) -> None:
    for statement in ("SELECT 1/0", "SELECT nothing"):
        with pytest.raises(DBAPIError):
            database.run(lambda connection, statement=statement: connection.execute(text(statement)))  # type: ignore[misc]


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_callers_transaction_that_conflicts(
    client: Client, database: Database, refusing: Refusing, level: str
) -> None:
    """Another submit took the idempotency key after this transaction had begun, so that it cannot see it."""
    with database.engine.connect().execution_options(isolation_level=level) as connection:
        connection.execute(text("SELECT count(*) FROM dspex.executions"))
        first = client.submit("qa", {"question": "?"}, idempotency_key="order-1")
        with pytest.raises(BackendUnavailable, match="roll back this transaction and repeat it") as refused:
            client.submit("qa", {"question": "?"}, idempotency_key="order-1", connection=connection)
        assert refused.value.details["sqlstate"] == "40001"
        connection.rollback()
    with database.engine.connect().execution_options(isolation_level=level) as connection:
        again = client.submit("qa", {"question": "?"}, idempotency_key="order-1", connection=connection)
        assert again.id == first.id


def test_a_callers_transaction_without_room(client: Client, database: Database, refusing: Refusing) -> None:
    with refusing.refuse("dspex.executions", "53100"), database.engine.begin() as connection:
        with pytest.raises(BackendUnavailable, match="SQLSTATE 53100"):
            client.submit("qa", {"question": "?"}, connection=connection)
        connection.rollback()


async def test_an_asynchronous_client(backends: Backends, refusing: Refusing) -> None:
    async with dspex.AsyncClient(database_url=backends.database_url, broker_url=backends.broker_url) as client:
        with refusing.refuse("dspex.executions", "53100"), pytest.raises(BackendUnavailable, match="SQLSTATE 53100"):
            await client.submit("qa", {"question": "?"})
