"""Jobs of optimisers without a worker: their executions are found, counted and cancelled with them."""

from __future__ import annotations

import json

import dspex
from dspex.client.client import Client
from dspex.client.improvement.optimization_page import pareto_front
from dspex.store.database import Database
from tests.store.test_executions import submit

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
    assert client.get(other).status is dspex.Status.QUEUED
    assert client.optimization(job.id).cancel() == 0


def test_the_front_has_what_no_other_version_beats_in_score_and_cost() -> None:
    def tried(version: str, score: float, cost_usd: float) -> dspex.TriedVersion:
        return dspex.TriedVersion(version, score, 10, 0, cost_usd)

    good, cheap = tried("good", 0.9, 2.0), tried("cheap", 0.5, 0.1)
    beaten, same = tried("beaten", 0.8, 2.5), tried("same", 0.9, 2.0)
    assert pareto_front([good, cheap, beaten, same]) == [good, cheap, same]
