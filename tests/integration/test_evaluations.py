"""Evaluations and replays in a real worker: metrics that work, and metrics that do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

import dspex
from dspex.cli.main import cli
from dspex.client.client import Client
from dspex.client.improvement.evaluation_page import comparison_page, evaluation_page
from dspex.settings import Backends
from dspex.store.workers import heartbeats
from tests.integration.test_execution import scripted
from tests.processes import WorkerProcess
from tests.waiting import wait_for

METRICS = """
import asyncio, pathlib, time
import dspy

def routed(example, prediction, trace=None):
    assert example.inputs().keys() == ["ticket"]
    return example.queue == prediction.queue

async def routed_async(example, prediction, trace=None):
    await asyncio.sleep(0)
    return dspy.Prediction(score=0.5, feedback=f"{example.ticket} was sent to {prediction.queue}")

def gepa_form(gold, pred, trace, pred_name, pred_trace):
    return {"score": 1, "feedback": "fine"}

def raising(example, prediction, trace=None):
    raise KeyError(example.ticket)

def quitting(example, prediction, trace=None):
    raise SystemExit(1)

def nothing(example, prediction, trace=None):
    pass

def half_a_character(example, prediction, trace=None):
    return {"score": 1.0, "feedback": "half of \\ud83d"}

def based(example, prediction, trace=None):
    return float(example.base == prediction.base)

def endless(example, prediction, trace=None):
    return 10**400

def hanging(example, prediction, trace=None):
    time.sleep(3)

async def blocking(example, prediction, trace=None):
    here = pathlib.Path(__file__).parent
    (here / "began").touch()
    while not (here / "go").exists():
        time.sleep(0.01)
    return 1.0
"""
SIGNATURE = ':string ticket -> :enum("bug", "other") queue'
ROWS = [{"ticket": f"number {n}", "queue": "bug" if n % 2 else "other"} for n in range(8)]


def test_metrics_score_in_the_worker_and_their_errors_are_their_own(
    client: Client, backends: Backends, start_worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    (tmp_path / "desk_metrics.py").write_text(METRICS)
    start_worker(DSPEX_PROGRAM_PACKAGES="desk_metrics", PYTHONPATH=tmp_path)
    client.deploy(scripted("triage", SIGNATURE, module_options={"outputs": {"queue": "bug"}}))
    dataset = client.dataset("tickets", ROWS, inputs=["ticket"])

    def evaluated(metric: str, **options: float) -> dspex.Evaluation:
        return client.evaluate("triage", dataset, metric=metric, **options).wait(60)  # type: ignore[arg-type]

    before = evaluated("desk_metrics:routed")
    assert before.score == evaluated("exact").score == 0.5
    awaited = evaluated("desk_metrics:routed_async")
    assert awaited.score == 0.5
    assert {row.feedback for row in awaited.rows()} >= {"number 3 was sent to bug"}
    assert evaluated("desk_metrics:gepa_form").score == 1.0
    assert client.get(before.batch.ids[0]).audit_trail.verify()

    errors = {"raising": "metric_error", "nothing": "metric_no_score", "endless": "metric_no_score"}
    for metric, code in errors.items():
        found = evaluated(f"desk_metrics:{metric}")
        assert found.score is None
        assert found.figures.unscored == 8
        assert {row.metric_error["code"] for row in found.rows() if row.metric_error} == {code}
        assert {row.outputs["queue"] for row in found.rows() if row.outputs} == {"bug"}, "the program completed"
    urls = {"DSPEX_DATABASE_URL": backends.database_url, "DSPEX_BROKER_URL": backends.broker_url}
    asked = ["evaluate", "triage", "tickets", "--metric", "desk_metrics:nothing"]
    printed = CliRunner().invoke(cli, asked, env=urls, standalone_mode=False).output
    assert "no score\n0 scored, 0 failed (0), 8 without a score" in printed
    assert "row 0: metric_no_score: the metric gave a NoneType" in printed

    page = tmp_path / "page.html"
    asked = ["evaluate", "triage", "tickets", "--metric", "desk_metrics:half_a_character", "-o", str(page)]
    assert "score 1.0000" in CliRunner().invoke(cli, asked, env=urls, standalone_mode=False).output
    assert "half of \\ud83d" in page.read_text()

    client.deploy(scripted("rates", ":string place -> :string base", module_options={"outputs": {"base": "USD"}}))
    rates = client.dataset("rates", [{"place": "Lima", "base": "USD"}], inputs=["place"])
    assert client.evaluate("rates", rates, metric="desk_metrics:based").wait(60).score == 1.0
    assert [example.toDict() for example in rates.examples()] == [{"place": "Lima", "base": "USD"}]

    quitting = evaluated("desk_metrics:quitting")
    told = {row.metric_error["message"] for row in quitting.rows() if row.metric_error}
    assert told == {"the metric raised SystemExit"}
    one = client.evaluate("triage", dataset[:1], metric="desk_metrics:hanging", metric_timeout=0.2).wait(60)
    assert [row.metric_error["code"] for row in one.rows() if row.metric_error] == ["metric_timeout"]
    refused = client.evaluate("triage", dataset[:1], metric="os:getcwd").wait(60)
    assert [row.error.code for row in refused.rows() if row.error] == ["module_not_allowed"]
    assert client.get(refused.batch.ids[0]).metrics.lm_calls == 0, "nothing was paid for"

    late = client.evaluate("triage", dataset[:1], metric="desk_metrics:blocking", metric_timeout=0.2).wait(60)
    assert [row.metric_error["code"] for row in late.rows() if row.metric_error] == ["metric_timeout"]
    (tmp_path / "began").unlink()
    blocked = client.evaluate("triage", dataset[:1], metric="desk_metrics:blocking")
    wait_for((tmp_path / "began").exists, "the coroutine to block")
    (beat,) = client._database.run(heartbeats)
    assert client.execute("triage", {"ticket": "x"}, timeout=30).queue == "bug", "the loop of its worker goes on"
    wait_for(lambda: client._database.run(heartbeats) > [beat], "its lease to be renewed")
    (tmp_path / "go").touch()
    assert blocked.wait(60).score == 1.0
    assert client.get(blocked.batch.ids[0]).attempts == 1

    better = scripted("triage", SIGNATURE, module_options={"outputs": {"queue": "other"}})
    client.deploy(better, current=False)
    after = client.evaluate("triage", dataset, metric="exact", version=better.version).wait(60)
    found_rows = after.compare(before)
    assert {tuple(row.fields["queue"]) for row in found_rows.rows} == {("bug", "other")}
    assert found_rows.verdict == "noise"
    assert "<svg" in comparison_page(found_rows)
    assert "number 3" in evaluation_page(after)


def test_a_budget_is_hard_and_what_was_paid_counts(shared_client: Client) -> None:
    client = shared_client
    client.deploy(scripted("dear", SIGNATURE, module_options={"outputs": {"queue": "bug"}, "cost_usd": 0.25}))
    dataset = client.dataset("tickets", ROWS, inputs=["ticket"])
    evaluation = client.evaluate("dear", dataset, metric="exact", budget_usd=1.1).wait(60)
    assert evaluation.spent_usd == pytest.approx(1.0)
    figures = evaluation.figures
    assert (figures.scored, figures.unpaid, figures.failed) == (4, 4, 0)
    assert not figures.is_complete
    assert client.execute("dear", {"ticket": "x"}, timeout=60).queue == "bug", "production is not limited by it"


def test_a_replay_pays_for_nothing_that_was_recorded(shared_client: Client) -> None:
    client = shared_client
    client.deploy(
        scripted("replayed", SIGNATURE, module_options={"outputs": {"queue": "bug"}, "calls": 2, "cost_usd": 1.0})
    )
    originals = [client.submit("replayed", {"ticket": row["ticket"]}) for row in ROWS[:3]]
    for original in originals:
        original.result(timeout=60)
    other = scripted("replayed", SIGNATURE, module_options={"outputs": {"queue": "other"}, "calls": 3, "cost_usd": 1.0})
    client.deploy(other, current=False)
    replay = client.replay("replayed", version=other.version).wait(60)
    rows = list(replay.rows())
    assert [row.original_id for row in rows] == [original.id for original in originals]
    assert {tuple(row.fields["queue"]) for row in rows} == {("bug", "other")}
    figures = replay.figures
    assert (figures.finished, figures.changed, figures.fails_now) == (3, 3, 0)
    assert figures.by_field == {"queue": 3}
    assert figures.cost_usd == (6.0, 9.0)
    assert figures.paid_usd == 3.0, "one new call each"
    assert client.get(rows[0].execution_id).metrics.replayed_lm_calls == 2


def test_a_replay_beyond_its_budget_is_not_taken_for_failures(shared_client: Client) -> None:
    client = shared_client
    options = {"outputs": {"queue": "bug"}, "cost_usd": 1.0}
    client.deploy(scripted("replayed_dear", SIGNATURE, module_options=options))
    for row in ROWS[:4]:
        client.execute("replayed_dear", {"ticket": row["ticket"]}, timeout=60)
    other = scripted("replayed_dear", SIGNATURE, module_options={**options, "calls": 2})
    client.deploy(other, current=False)
    replay = client.replay("replayed_dear", version=other.version, budget_usd=2.5).wait(60)
    figures = replay.figures
    assert (figures.finished, figures.not_run, figures.changed, figures.fails_now) == (4, 2, 0, 0)
    assert (figures.cost_usd, figures.paid_usd) == ((2.0, 4.0), 2.0)


def test_a_program_judges_another_within_its_execution(shared_client: Client) -> None:
    client = shared_client
    client.deploy(scripted("judged", SIGNATURE, module_options={"outputs": {"queue": "bug"}}))
    judge = ":string ticket, :string predicted_queue, :string expected_queue -> :float score, :string feedback"
    client.deploy(scripted("judge", judge, module_options={"outputs": {"score": 0.75, "feedback": "nearly"}}))
    dataset = client.dataset("tickets", ROWS[:2], inputs=["ticket"])
    evaluation = client.evaluate("judged", dataset, metric=dspex.metrics.judge("judge")).wait(60)
    assert evaluation.score == 0.75
    assert {row.feedback for row in evaluation.rows()} == {"nearly"}
    assert client.get(evaluation.batch.ids[0]).metrics.lm_calls == 2, "its own call, and the judge's"
    assert evaluation.metric.startswith("judge(judge@"), "the version is fixed"
    client.deploy(scripted("mute", SIGNATURE))
    with pytest.raises(dspex.ValidationError):
        client.evaluate("judged", dataset, metric=dspex.metrics.judge("mute"))
