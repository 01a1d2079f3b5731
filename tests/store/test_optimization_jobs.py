"""Jobs of optimisers without a worker: their executions are found, counted and cancelled with them."""

from __future__ import annotations

import json

import pytest

import dspex
from dspex.client.client import Client
from dspex.client.improvement.optimization_page import optimization_page, pareto_front
from dspex.store.database import Database
from tests.store.test_executions import claim, dispatch_due, register, settle, submit

PROGRAM = dspex.Program("sums", dspex.signature("question -> answer"), model="openai/test", api_base="http://h/v1")


def test_a_cancelled_job_takes_its_executions_with_it(client: Client, database: Database) -> None:
    client.deploy(PROGRAM)
    client.dataset("sums", [{"question": "?", "answer": "!"}], inputs=["question"])
    job = client.optimize("sums", trainset="sums", metric="exact", optimizer="labeled", budget_usd=1.0)
    assert job.spent_usd == 0.0
    purpose = json.dumps({"trace": True, "job": job._job})
    given = {"program": "sums", "version": PROGRAM.version, "pinned": True}
    rollouts = [submit(database, **given, purpose=purpose) for _ in range(500)]
    other = submit(database, **given)
    (tried,) = job.candidates()
    assert (tried.version, tried.executions, tried.score) == (PROGRAM.version, 500, None)
    assert job.cancel() == 500
    assert job.execution.refresh().status is dspex.Status.CANCELLED
    assert {client.get(id).status for id in (rollouts[0], rollouts[-1])} == {dspex.Status.CANCELLED}
    dispatch_due(database, window=1000)
    assert [each.id for each in claim(database, register(database), *rollouts, other)] == [other], "none begins"
    assert client.optimization(job.id).cancel() == 0


def test_rows_that_no_rollout_could_be_executed_with_are_named_before_anything_is_stored(client: Client) -> None:
    client.deploy(PROGRAM)
    for name, columns in {"odd": {"query": "?", "answer": "!"}, "bare": {"question": "?", "note": "!"}}.items():
        client.dataset(name, [columns], inputs=[next(iter(columns))])
    client.dataset("mixed", [{"question": each, "answer": "!"} for each in ("?", 7, None)], inputs=["question"])
    paths = {"odd": "odd.inputs.query", "bare": "bare.labels", "mixed": "mixed.rows[1].question"}
    for name, path in paths.items():
        with pytest.raises(dspex.ValidationError) as refused:
            client.optimize("sums", trainset=name, metric="exact", optimizer="labeled")
        assert path in [fault.path for fault in refused.value.errors]
    assert client.list() == []


def test_a_set_without_rows_is_refused_and_never_replaced_by_the_other(client: Client) -> None:
    client.deploy(PROGRAM)
    whole = client.dataset("sums", [{"question": "?", "answer": "!"}], inputs=["question"])
    for trainset, valset in ((whole[0:0], whole), (whole, whole[0:0]), (whole[0:0], None)):
        with pytest.raises(dspex.ValidationError, match=r"sums\.rows: expected at least one"):
            client.optimize("sums", trainset=trainset, valset=valset, metric="exact", optimizer="labeled")
    assert client.list() == []


def test_costs_that_are_not_known_are_counted(client: Client, database: Database) -> None:
    client.deploy(PROGRAM)
    client.dataset("sums", [{"question": "?", "answer": "!"}], inputs=["question"])
    job = client.optimize("sums", trainset="sums", metric="exact", optimizer="labeled")
    given = {"program": "sums", "version": PROGRAM.version, "pinned": True, "purpose": json.dumps({"job": job._job})}
    ids = [submit(database, **given) for _ in range(2)]
    dispatch_due(database)
    costs = ('{"cost_usd": 0.5, "unpriced_lm_calls": 0}', '{"cost_usd": null, "unpriced_lm_calls": 1}')
    for claimed, metrics in zip(claim(database, register(database), *ids), costs, strict=True):
        settle(database, claimed, result='{"answer":"!"}', metrics=metrics)
    (tried,) = job.candidates()
    assert (tried.cost_usd, tried.unpriced) == (0.5, 1)
    assert (job.progress.cost_usd, job.progress.unpriced) == (0.5, 1)
    assert "at least $0.50" in optimization_page(job)


def test_the_candidates_of_a_job_under_way_have_scores(client: Client, database: Database) -> None:
    client.deploy(PROGRAM)
    client.dataset("sums", [{"question": "?", "answer": "!"}], inputs=["question"])
    job = client.optimize("sums", trainset="sums", metric="exact", optimizer="labeled")
    submit(database, program="sums", version=PROGRAM.version, pinned=True, purpose=json.dumps({"job": job._job}))
    listed = [{"version": PROGRAM.version, "score": 0.5, "examples": 4, "parents": []}]
    job.show_candidates(1, listed)
    assert [each.score for each in job.candidates()] == [None], "it does not run"
    dispatch_due(database)
    (claimed,) = claim(database, register(database), job.id)
    job.show_candidates(0, listed)
    assert [each.score for each in job.candidates()] == [None], "another attempt's"
    job.show_candidates(1, listed)
    assert [each.score for each in job.candidates()] == [0.5]
    assert f"The best version is {PROGRAM.version}." in optimization_page(job)
    assert settle(database, claimed, "failed", error='{"code": "x", "message": ""}')
    assert job.execution.audit_trail.verify()


def test_the_front_has_what_no_other_version_beats_in_score_and_cost() -> None:
    def tried(version: str, score: float, cost_usd: float) -> dspex.TriedVersion:
        return dspex.TriedVersion(version, score, 10, 0, cost_usd)

    good, cheap = tried("good", 0.9, 2.0), tried("cheap", 0.5, 0.1)
    beaten, same = tried("beaten", 0.8, 2.5), tried("same", 0.9, 2.0)
    assert pareto_front([good, cheap, beaten, same]) == [good, cheap, same]
