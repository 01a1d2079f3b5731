"""Feedback: appended to final executions, in their trails, and found again."""

from __future__ import annotations

from functools import partial
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

import dspex
from dspex.client.client import Client
from dspex.sealing.keyring import Keyring
from dspex.sealing.rotation import rotate
from dspex.settings import Backends, Settings
from dspex.settings.security_settings import new_key, read_keys
from dspex.store import programs
from dspex.store.database import Database
from tests.store.test_executions import PROGRAM, claim, dispatch_due, register, settle, submit

OLD, NEW = new_key(), new_key()


@pytest.fixture(autouse=True)
def _deployed(database: Database) -> None:
    database.run(partial(programs.deploy, program=PROGRAM))


def completed(database: Database, answer: str = "x") -> UUID:
    id = submit(database)
    dispatch_due(database)
    settle(database, claim(database, register(database), id)[0], result=f'{{"answer":"{answer}"}}')
    return id


def test_feedback_is_appended_and_never_changes_the_result(client: Client, database: Database) -> None:
    execution = client.get(completed(database))
    execution.feedback(score=0.0, outputs={"answer": "y"}, note="wrong", by="ada")
    execution.feedback(score=1)
    first, second = execution.feedback_entries
    assert (first.score, first.outputs, first.note, first.by) == (0.0, {"answer": "y"}, "wrong", "ada")
    assert (second.score, second.outputs) == (1.0, None)
    assert execution.refresh().result(timeout=0).answer == "x"
    trail = execution.audit_trail
    assert trail.kinds[-2:] == ["feedback", "feedback"]
    assert trail.verify()
    assert trail["feedback"].data["by"] in ("ada", None)
    assert "wrong" not in str([event.data for event in trail])


def test_a_retried_execution_may_be_judged_before_and_after(client: Client, database: Database) -> None:
    id = submit(database)
    dispatch_due(database)
    settle(database, claim(database, register(database), id)[0], "failed", error='{"code": "x", "message": ""}')
    client.get(id).feedback(note="see ticket 7")
    client.retry(id)
    dispatch_due(database)
    settle(database, claim(database, register(database), id)[0], result='{"answer":"x"}')
    client.get(id).feedback(score=1)
    assert client.audit_trail(id).verify()


def test_only_final_executions_are_judged(client: Client, database: Database) -> None:
    queued = client.get(submit(database))
    with pytest.raises(dspex.ResultNotReady):
        queued.feedback(score=1)
    assert queued.feedback_entries == []


def test_feedback_that_does_not_fit_is_refused(client: Client, database: Database) -> None:
    execution = client.get(completed(database))
    wrong: dict[str, Any]
    for wrong in ({}, {"score": float("nan")}, {"score": 10**400}, {"score": 1e300},
                  {"outputs": {"answr": "y"}}, {"outputs": {}}, {"note": "x" * 20_000},
                  {"score": 1, "by": "\0"}):  # fmt: skip
        with pytest.raises(dspex.ValidationError):
            execution.feedback(**wrong)
    assert execution.feedback_entries == []


def test_executions_are_listed_by_their_feedback(client: Client, database: Database) -> None:
    plain, scored, corrected = (completed(database) for _ in range(3))
    client.get(scored).feedback(score=1)
    client.get(corrected).feedback(outputs={"answer": "z"})
    assert {each.id for each in client.list(program="qa", feedback="any")} == {scored, corrected}
    assert {each.id for each in client.list(program="qa", feedback="corrected")} == {corrected}
    assert plain in {each.id for each in client.list(program="qa")}
    with pytest.raises(dspex.ValidationError):
        client.list(feedback="good")


def test_a_dataset_of_executions_has_the_corrected_outputs(client: Client, database: Database) -> None:
    good, wrong, corrected = (completed(database, answer) for answer in ("good", "wrong", "bad"))
    client.get(good).feedback(score=1)
    client.get(wrong).feedback(score=0)
    client.get(corrected).feedback(score=0, outputs={"answer": "better"})
    dataset = client.dataset("qa-feedback", executions=client.list(program="qa", feedback="any"))
    assert sorted(row.labels["answer"] for row in dataset) == ["better", "good"]
    assert dataset.inputs == ("question",)


def test_feedback_of_secret_fields_is_sealed(backends: Backends, database: Database) -> None:
    urls = {"database_url": backends.database_url, "broker_url": backends.broker_url}
    secret = dspex.Program(
        "vault", dspex.signature(":string question -> :string(secret=true) answer"), adapter="scripted"
    )
    with Client(Settings.load(**urls, encryption_key=OLD)) as client:
        client.deploy(secret)
        execution = client.submit("vault", {"question": "?"})
        dispatch_due(database)
        settle(
            database, claim(database, register(database), execution.id)[0], "failed", error='{"code":"x","message":""}'
        )
        execution.refresh().feedback(outputs={"answer": "swordfish"}, note="swordfish")
        stored = database.run(lambda connection: connection.scalar(text("SELECT content::text FROM dspex.feedback")))
        assert "swordfish" not in str(stored)
        (entry,) = execution.feedback_entries
        assert (entry.outputs, entry.note) == ({"answer": "swordfish"}, "swordfish")
        dataset = client.dataset("vault", executions=[execution])
        rows = database.run(lambda connection: connection.scalar(text("SELECT content::text FROM dspex.dataset_rows")))
        assert "swordfish" not in str(rows)
        assert dataset[0].labels == {"answer": "swordfish"}
        done = rotate(database, Keyring(read_keys(f"{NEW},{OLD}")))
        assert (done.unreadable, done.rows >= 2) == (0, True)
    with Client(Settings.load(**urls, encryption_key=NEW)) as client:
        assert client.get(execution.id).feedback_entries[0].note == "swordfish"
        assert client.dataset("vault")[0].labels == {"answer": "swordfish"}
