"""Evaluations before a worker has them: what is checked and stored, all or nothing."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import text

import dspex
from dspex.client.client import Client
from dspex.client.improvement.evaluation_page import evaluation_page
from dspex.store.database import Database
from tests.store.test_executions import claim, dispatch_due, register, settle

PROGRAM = dspex.Program("triage", dspex.signature(':string ticket -> :enum("bug", "other") queue'), adapter="scripted")
ROWS = [{"ticket": f"number {n}", "queue": "bug" if n % 2 else "other"} for n in range(6)]
UNPRICED = '{"score": 1.0, "lm_calls": 1, "cost_usd": null, "unpriced_lm_calls": 1}'
PRICED = '{"score": 1.0, "lm_calls": 1, "cost_usd": 0.5, "unpriced_lm_calls": 0}'


@pytest.fixture
def dataset(client: Client) -> dspex.Dataset:
    client.deploy(PROGRAM)
    return client.dataset("tickets", ROWS, inputs=["ticket"])


def finish(client: Client, database: Database, evaluation: dspex.Evaluation, scores: list[float | None]) -> None:
    """Settle its executions with these scores; None fails."""
    dispatch_due(database, window=100)
    claimed = {each.id: each for each in claim(database, register(database), *evaluation.batch.ids)}
    for id, score in zip(evaluation.batch.ids, scores, strict=True):
        if score is None:
            settle(database, claimed[id], "failed", error='{"code": "x", "message": ""}')
        else:
            settle(database, claimed[id], result='{"queue":"bug"}', metrics=f'{{"score": {score}}}')


def test_every_execution_knows_its_metric_and_its_row(client: Client, dataset: dspex.Dataset) -> None:
    evaluation = client.evaluate("triage", dataset[1:4], metric="exact", repeats=2)
    assert len(evaluation) == 6
    purposes = [client.get(id)._row["purpose"] for id in evaluation.batch.ids]
    assert [purpose["row"] for purpose in purposes] == [1, 2, 3, 1, 2, 3]
    assert {purpose["metric"] for purpose in purposes} == {"exact"}
    trail = client.get(evaluation.batch.ids[0]).audit_trail
    assert trail["submitted"].data["purpose"]["metric"] == "exact"
    assert trail.verify()
    found = client.evaluation(evaluation.id)
    assert (found.repeats, list(found.dataset.indexes), found.metric) == (2, [1, 2, 3], "exact")
    assert [each.id for each in client.evaluations(program="triage")] == [evaluation.id]
    assert client.evaluations(program="other") == []
    assert evaluation.score is None


def test_the_score_counts_failures_as_nothing(client: Client, database: Database, dataset: dspex.Dataset) -> None:
    evaluation = client.evaluate("triage", dataset, metric="exact")
    finish(client, database, evaluation, [1.0, 1.0, 0.5, 0.5, None, 0.0])
    assert evaluation.score == pytest.approx(0.5)
    figures = evaluation.figures
    assert (figures.scored, figures.failed, figures.unscored, figures.total) == (5, 1, 0, 6)
    assert figures.is_complete
    rows = list(evaluation.rows())
    assert [row.score for row in rows] == [1.0, 1.0, 0.5, 0.5, 0.0, 0.0]
    assert [row.inputs["ticket"] for row in rows] == [row["ticket"] for row in ROWS]
    assert rows[4].error is not None
    assert rows[4].outputs is None


def test_a_page_of_an_evaluation_has_no_marks_that_reverse_text(client: Client, database: Database) -> None:
    client.deploy(PROGRAM)
    marked = [{"ticket": "pay \u202e001\u202c", "queue": "bug"}]
    evaluation = client.evaluate("triage", client.dataset("marked", marked, inputs=["ticket"]), metric="exact")
    finish(client, database, evaluation, [1.0])
    page = evaluation_page(evaluation)
    assert "pay 001" in page
    assert "\u202e" not in page


def test_a_deploy_in_the_middle_changes_no_execution(
    client: Client, database: Database, dataset: dspex.Dataset
) -> None:
    evaluation = client.evaluate("triage", dataset, metric="exact")
    dispatch_due(database, window=2)
    client.deploy(dspex.Program("triage", PROGRAM.signature, adapter="scripted", timeout=7))
    dispatch_due(database, window=100)
    claimed = claim(database, register(database), *evaluation.batch.ids)
    assert {each.version for each in claimed} == {PROGRAM.version}
    assert len(claimed) == len(ROWS)
    assert client.evaluation(evaluation.id).version == PROGRAM.version
    assert client.evaluate("triage", dataset[:1], metric="exact").version != PROGRAM.version


def test_regressions_come_first_and_the_sentence_says_what_they_mean(
    client: Client, database: Database, dataset: dspex.Dataset
) -> None:
    before = client.evaluate("triage", dataset, metric="exact")
    finish(client, database, before, [1.0, 1.0, 0.0, 0.0, 0.5, 1.0])
    after = client.evaluate("triage", dataset, metric="exact")
    finish(client, database, after, [1.0, 0.0, 1.0, 0.0, 0.5, None])
    found = after.compare(before)
    assert [row.index for row in found.regressions] == [1, 5]
    assert [row.index for row in found.improvements] == [2]
    assert found.difference is not None
    assert (found.difference.better, found.difference.worse, found.difference.same) == (1, 2, 3)
    assert found.verdict == "noise"
    assert "1 rows better, 2 worse, 3 the same" in found.sentence
    assert dict(found.rows[-1].fields) == {}
    other = client.evaluate("triage", client.dataset("other", ROWS[:2], inputs=["ticket"]), metric="exact")
    with pytest.raises(dspex.ValidationError):
        other.compare(before)


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"metric": "nothing"}, "metric"),
        ({"metric": lambda example, prediction: 1}, "metric"),
        ({"repeats": 0}, "repeats"),
        ({"budget_usd": -1}, "budget_usd"),
        ({"metric_timeout": 0}, "metric_timeout"),
    ],
)
def test_wrong_options_are_refused(client: Client, dataset: dspex.Dataset, options: Any, path: str) -> None:
    with pytest.raises(dspex.ValidationError) as refused:
        client.evaluate("triage", dataset, **{"metric": "exact", **options})
    assert [fault.path for fault in refused.value.errors] == [path]


def test_an_evaluation_of_no_rows_is_refused(client: Client, database: Database, dataset: dspex.Dataset) -> None:
    with pytest.raises(dspex.ValidationError, match=r"dataset\.rows: expected at least one"):
        client.evaluate("triage", dataset[0:0], metric="exact", budget_usd=1.0)
    assert database.run(lambda c: c.execute(text("SELECT program FROM dspex.budgets")).all()) == []


def test_a_cost_that_is_not_known_is_not_shown_as_nothing(
    client: Client, database: Database, dataset: dspex.Dataset
) -> None:
    evaluation = client.evaluate("triage", dataset[:2], metric="exact")
    dispatch_due(database)
    worker_id = register(database)
    for claimed, metrics in zip(claim(database, worker_id, *evaluation.batch.ids), (UNPRICED, PRICED), strict=True):
        settle(database, claimed, result='{"queue":"bug"}', metrics=metrics)
        assert ("unknown" if metrics is UNPRICED else "at least $0.50") in evaluation_page(evaluation)


@pytest.mark.parametrize(
    ("options", "path"),
    [({"budget_usd": -1}, "budget_usd"), ({"budget_usd": "x"}, "budget_usd"), ({"limit": "5"}, "limit"),
     ({"limit": 0}, "limit")],
)  # fmt: skip
def test_wrong_options_of_a_replay_are_refused(client: Client, options: Any, path: str) -> None:
    client.deploy(PROGRAM)
    with pytest.raises(dspex.ValidationError) as refused:
        client.replay("triage", version=PROGRAM.version, **options)
    assert [fault.path for fault in refused.value.errors] == [path]


def test_rows_that_do_not_fit_the_program_are_named_before_anything_is_stored(
    client: Client, database: Database
) -> None:
    client.deploy(PROGRAM)
    rows: list[dict[str, Any]] = [*ROWS, {"ticket": 7, "queue": "bug"}, {"ticket": None, "queue": "bug"}]
    mixed = client.dataset("mixed", rows, inputs=["ticket"])
    with pytest.raises(dspex.ValidationError) as refused:
        client.evaluate("triage", mixed, metric="exact")
    assert [fault.path.partition(".")[0] for fault in refused.value.errors] == ["rows[6]", "rows[7]"]
    unknown = client.dataset("unknown", [{"text": "x", "queue": "bug"}], inputs=["text"])
    with pytest.raises(dspex.ValidationError, match=r"dataset\.inputs\.text"):
        client.evaluate("triage", unknown, metric="exact")
    unlabelled = client.dataset("unlabelled", [{"ticket": "x", "other": "bug"}], inputs=["ticket"])
    with pytest.raises(dspex.ValidationError, match=r"dataset\.labels"):
        client.evaluate("triage", unlabelled, metric="exact")
    assert database.run(lambda connection: connection.scalar(text("SELECT count(*) FROM dspex.executions"))) == 0


def test_an_evaluation_of_another_version(client: Client, dataset: dspex.Dataset) -> None:
    other = dspex.Program("triage", PROGRAM.signature, adapter="scripted", timeout=7)
    client.deploy(other, current=False)
    client.alias("triage", "challenger", other.version)
    evaluation = client.evaluate("triage", "tickets", metric=dspex.metrics.exact, version="challenger")
    assert evaluation.version == other.version
    assert {client.get(id).version for id in evaluation.batch.ids} == {other.version}
