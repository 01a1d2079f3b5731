"""Evaluations and optimisations that are over, settled through the store: no worker is needed to look at them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import dspex
from dspex.client.client import Client
from dspex.store.database import Database
from tests.store.test_executions import claim, dispatch_due, register, settle, submit

__all__ = ["METRIC_ERROR", "finished_evaluation", "finished_job"]

#: In place of a score: the metric failed.
METRIC_ERROR = "metric"


def finished_evaluation(
    client: Client, database: Database, program: str, dataset: Any, scores: Sequence[float | str | None], **options: Any
) -> dspex.Evaluation:
    """An evaluation with these scores, in the order of its executions; None fails."""
    outputs = options.pop("outputs", {"queue": "bug"})
    found = client.evaluate(program, dataset, metric="exact", **options)
    claimed = {each.id: each for each in _claimed(database, found.batch.ids)}
    for id, score in zip(found.batch.ids, scores, strict=True):
        if score is None:
            settle(database, claimed[id], "failed", error='{"code": "rate_limited", "message": "too often"}')
            continue
        error = {"code": "metric_error", "message": "KeyError: 'queue'"} if score == METRIC_ERROR else None
        scored = {"score": None, "error": error} if error else {"score": score, "feedback": "as expected"}
        settle(
            database, claimed[id], result=json.dumps(outputs),
            action_results=json.dumps({"metric": {"result": scored}}),
            metrics=json.dumps({} if error else {"score": score, "execution_time_ms": 120.0}),
        )  # fmt: skip
    return found


def finished_job(
    client: Client, database: Database, program: str, trainset: str, tried: Sequence[tuple[str, float, str | None]]
) -> dspex.Optimization:
    """A job that tried these versions: each with its score and what it was made from. The last one is the best."""
    job = client.optimize(program, trainset=trainset, metric="exact", optimizer="gepa", budget_usd=1.0)
    purpose = json.dumps({"trace": True, "job": job._job})
    for number, (version, _, _) in enumerate(tried, 1):
        ids = [
            submit(database, program=program, version=version, pinned=True, purpose=purpose, inputs='{"ticket":"?"}')
            for _ in range(2)
        ]
        for each in _claimed(database, ids):
            settle(database, each, result='{"queue":"bug"}', metrics=json.dumps({"cost_usd": 0.001 * number}))
    report = {
        "ended": "complete", "unrepeated": 0,
        "candidates": [
            {"version": version, "score": score, "examples": 2, "parents": [parent] if parent else []}
            for version, score, parent in tried
        ],
    }  # fmt: skip
    best, score, _ = tried[-1]
    (claimed,) = _claimed(database, [job.id])
    settle(database, claimed, result=json.dumps({"version": best, "score": score, "report": report}),
           metrics=json.dumps({"cost_usd": 0.02, "execution_time_ms": 60_000.0}))  # fmt: skip
    return job


def _claimed(database: Database, ids: Sequence[Any]) -> list[Any]:
    dispatch_due(database, window=1000)
    found = claim(database, register(database), *ids)
    assert len(found) == len(ids)
    return found
