"""Optimisations as executions: what they find, when they end, and what is left when they are cancelled or killed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy import text

import dspex
from dspex.client.client import Client
from dspex.client.improvement.optimization_page import optimization_page
from dspex.embedded.embedded_servers import EmbeddedServers
from tests.conftest import client_with_worker
from tests.model_server import ModelServer, Step, model_server
from tests.processes import WorkerProcess
from tests.waiting import wait_for

__all__ = ["model_server"]

ROWS = [{"question": f"{n} and {n} is?", "answer": str(2 * n)} for n in range(8)]
METRIC = "tests.optimizer_metrics:graded"
SEARCH = {"max_bootstrapped_demos": 2, "max_labeled_demos": 2, "num_candidate_programs": 2, "num_threads": 4}
GEPA = {"max_metric_calls": 60, "num_threads": 4}
#: Workers do not have the second package.
ALLOWED = {"OPENAI_API_KEY": "none", "DSPEX_PROGRAM_PACKAGES": "tests.optimizer_metrics,users_metrics"}


class Desk(NamedTuple):
    """A client, and where its worker, which runs one execution at once, asks for answers."""

    client: Client
    server: ModelServer


@pytest.fixture(scope="module")
def stack(servers: EmbeddedServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    settings = {**ALLOWED, "DSPEX_WORKER_CONCURRENCY": "1"}
    with client_with_worker(servers, tmp_path_factory, **settings) as client, ModelServer() as server:
        deploy(client, server, "sums")
        client.dataset("sums", ROWS, inputs=["question"])
        yield Desk(client, server)


@pytest.fixture
def desk(stack: Desk) -> Desk:
    stack.server.forget()
    return stack


def deploy(client: Client, server: ModelServer, name: str, model: str = "openai/test") -> dspex.Program:
    program = dspex.Program(
        name, dspex.signature(":string question -> :string answer"), model=model, prompt="chat",
        api_base=server.api_base,
    )  # fmt: skip
    client.deploy(program)
    return program


def optimize(client: Client, name: str = "sums", **given: Any) -> dspex.Optimization:
    chosen: dict[str, Any] = {"trainset": "sums", "metric": METRIC, "optimizer": "gepa", "options": GEPA, **given}
    return client.optimize(name, **chosen)


def test_gepa_finds_a_better_version_where_one_execution_runs_at_once(desk: Desk) -> None:
    desk.server.script(
        Step(match="new_instruction", times=1000, outputs={"new_instruction": "Answer well."}),
        Step(match="Answer well.", times=1000, outputs={"answer": "right"}),
        default=Step(outputs={"answer": "wrong"}),
    )
    first = desk.client.program("sums")
    job = optimize(desk.client, metric="tests.optimizer_metrics:is_right")
    result = job.result(timeout=120)
    assert (result.score, result.ended, result.unrepeated) == (1.0, "complete", 0)
    candidates = {each.version: each for each in job.candidates()}
    best = candidates[result.version]
    assert result.version != first.version
    assert (best.score, candidates[first.version].score) == (1.0, 0.0)
    assert best.parents == (first.version,), "GEPA says what a candidate was made from"
    assert best.instructions == {"self": "Answer well."}
    progress = job.progress
    assert (progress.status, progress.candidates) == ("completed", len(candidates))
    assert progress.executions == progress.finished == sum(each.executions for each in candidates.values())
    notes = {each.version: str(each.note) for each in desk.client.versions("sums")}
    assert notes[result.version].startswith(f"gepa from {first.version} on sums ")
    assert desk.client.submit("sums", {"question": "?"}).version == first.version, "deployed, and not the current one"
    page = optimization_page(job)
    assert "<svg" in page
    assert result.version in page
    assert desk.client.optimization(job.id).result(timeout=0) == result


def test_a_job_ends_with_its_best_candidate_when_its_budget_is_spent(desk: Desk) -> None:
    """Each call of the scripted adapter costs a cent."""
    priced = replace(desk.client.program("sums"), name="priced", adapter="scripted", module_options={"cost_usd": 0.01})
    desk.client.deploy(priced)
    given = {"optimizer": "bootstrap_random_search", "options": SEARCH}
    nothing = optimize(desk.client, "priced", budget_usd=0.005, **given)
    assert nothing.result(timeout=60) == dspex.OptimizationResult(priced.version, None, "budget spent")
    assert nothing.spent_usd == 0, "a budget smaller than one call"
    some = optimize(desk.client, "priced", budget_usd=0.055, **given)
    result = some.result(timeout=60)
    assert (result.version, result.ended) == (priced.version, "budget spent")
    assert result.score is not None
    assert some.spent_usd == pytest.approx(0.05)
    progress = some.progress
    assert progress.finished - progress.failed == 5


def test_a_job_is_handed_back_for_a_rollout_that_runs_alone_and_waits_for_nothing_else(desk: Desk) -> None:
    """They are on one worker: it would wait for the end of the job, which waits for the rollout."""
    client = desk.client
    client.deploy(replace(client.program("sums"), name="risky"))
    client.pause("risky")
    job = optimize(client, "risky", optimizer="bootstrap", options={"max_bootstrapped_demos": 1})
    wait_for(lambda: job.progress.executions == 1, "its first rollout to be submitted")
    with client._session.database.transaction() as connection:
        lost = text("UPDATE dspex.executions SET lost_attempts = 2 WHERE program = 'risky'")
        assert connection.execute(lost).rowcount == 1
    client.resume("risky")
    assert job.result(timeout=20).ended == "complete"
    assert job.execution.audit_trail.kinds.count("recovered") == 1
    assert job.execution.refresh().attempts == 2


def test_a_job_fails_with_what_every_rollout_would_fail_with(desk: Desk) -> None:
    job = optimize(desk.client, budget_usd=1.0)
    with pytest.raises(dspex.ExecutionFailed) as failed:
        job.result(timeout=60)
    assert failed.value.code == "price_unknown"
    assert job.progress.executions <= len(ROWS), "it does not go on"


def test_the_executions_of_a_cancelled_job_are_cancelled(desk: Desk) -> None:
    desk.server.script(default=Step(fault="hang"))
    many = desk.client.dataset("many", ({"question": str(n), "answer": "1"} for n in range(150)), inputs=["question"])
    options = {**SEARCH, "num_threads": 150}
    job = optimize(desk.client, trainset=many, optimizer="bootstrap_random_search", options=options)
    wait_for(lambda: job.progress.executions == 150, "its first evaluation to be submitted")
    assert job.execution.cancel(), "as any execution, through any client"
    wait_for(lambda: job.progress.finished == 150, "its executions to be cancelled")
    assert job.progress.status == "cancelled"
    assert job.progress.executions == 150, "and no more were submitted"


def test_a_job_that_needs_a_package_which_no_worker_has_fails_and_pays_for_nothing(desk: Desk) -> None:
    jobs = [optimize(desk.client, metric="users_metrics:exact"), optimize(desk.client, optimizer="users_metrics:Best")]
    evaluation = desk.client.evaluate("sums", "sums", metric="users_metrics:exact")
    assert optimize(desk.client, optimizer="labeled", options={}).result(timeout=60).score is None, "others go on"
    for job, code in zip(jobs, ("metric_not_found", "optimizer_not_found"), strict=True):
        with pytest.raises(dspex.ExecutionFailed, match="users_metrics") as failed:
            job.result(timeout=60)
        assert failed.value.code == code
        assert job.progress.executions == 0
    rows = list(evaluation.wait(60).rows())
    assert {row.error.details["cause"]["code"] for row in rows if row.error} == {"metric_not_found"}
    assert len(rows) == evaluation.figures.failed == len(ROWS)
    assert desk.server.calls()["answered"] == 0
    assert desk.client.execute("sums", {"question": "?"}, timeout=60).answer, "the program itself runs here"


def test_a_metric_without_scores_is_the_failure_of_the_job(desk: Desk) -> None:
    job = optimize(desk.client, metric="tests.optimizer_metrics:silent", optimizer="bootstrap", options={})
    with pytest.raises(dspex.ExecutionFailed) as failed:
        job.result(timeout=60)
    assert failed.value.code == "metric_no_score"


def test_an_option_that_the_optimiser_does_not_have_is_named(desk: Desk) -> None:
    job = optimize(desk.client, optimizer="labeled", options={"rounds": 3})
    with pytest.raises(dspex.ExecutionFailed, match=r"'labeled' has no option 'rounds': its options are .*\bk\b"):
        job.result(timeout=60)
    assert desk.server.calls()["answered"] == 0


def test_a_job_keeps_its_version_when_another_one_is_deployed(desk: Desk) -> None:
    """And a rollout that fails is a failure of its example, not of the job."""
    desk.server.script(Step(match="3 and 3 is", times=1000, status=400))
    first = deploy(desk.client, desk.server, "deployed_meanwhile")
    desk.client.pause(first.name)
    job = optimize(desk.client, first.name, optimizer="bootstrap_random_search", options=SEARCH)
    wait_for(lambda: job.progress.executions, "the first rollouts")
    other = replace(first, timeout=7)
    desk.client.deploy(other)
    desk.client.resume(first.name)
    result = job.result(timeout=60)
    tried = {each.version: each for each in job.candidates()}
    assert other.version not in tried
    assert tried[first.version].failed == 1
    assert tried[first.version].executions == len(ROWS)
    assert result.ended == "complete"
    assert desk.client.program(first.name).version == other.version
    assert desk.client.program(first.name, result.version).timeout == first.timeout


def test_an_optimiser_asks_no_model_that_its_program_does_not_name(desk: Desk) -> None:
    job = optimize(desk.client, optimizer="tests.optimizer_metrics:Nosy", options={})
    with pytest.raises(dspex.ExecutionFailed) as failed:
        job.result(timeout=60)
    assert failed.value.code == "model_not_allowed"


def test_wrong_arguments_are_refused_before_anything_is_stored(desk: Desk) -> None:
    before = len(desk.client.list())
    with pytest.raises(dspex.ValidationError) as refused:
        optimize(desk.client, metric="no", optimizer="luck", options="x", budget_usd=0, seed="x")
    assert [fault.path for fault in refused.value.errors] == ["metric", "optimizer", "options", "budget_usd", "seed"]
    assert len(desk.client.list()) == before


def test_a_killed_job_finds_the_same_version_and_pays_for_nothing_twice(
    client: Client, start_worker: Callable[..., WorkerProcess], model_server: ModelServer
) -> None:
    deploy(client, model_server, "sums")
    client.dataset("sums", ROWS, inputs=["question"])
    environment = {**ALLOWED, "DSPEX_LEASE_SECONDS": 1}
    doomed = start_worker(**environment)
    undisturbed = optimize(client, optimizer="bootstrap_random_search", options=SEARCH).result(timeout=60)
    asked = model_server.calls()["by_hash"]
    model_server.forget()
    job = optimize(client, optimizer="bootstrap_random_search", options=SEARCH)
    wait_for(lambda: model_server.calls()["answered"] >= sum(asked.values()) // 2, "half of its calls")
    doomed.kill()
    start_worker(**environment)
    assert job.result(timeout=60) == undisturbed
    again = model_server.calls()["by_hash"]
    assert again.keys() == asked.keys()
    repeated = sum(again[each] - asked[each] for each in asked)
    assert 0 <= repeated <= SEARCH["num_threads"], "the calls in flight at the kill"
    assert job.execution.refresh().attempts == 2


def test_an_optimiser_that_does_something_else_each_time_is_found_out(
    client: Client, start_worker: Callable[..., WorkerProcess], model_server: ModelServer, tmp_path: Path
) -> None:
    deploy(client, model_server, "sums")
    client.dataset("sums", ROWS, inputs=["question"])
    environment = {**ALLOWED, "DSPEX_LEASE_SECONDS": 1}
    doomed = start_worker(**environment)
    options = {"marker": str(tmp_path / "marker")}
    job = optimize(client, optimizer="tests.optimizer_metrics:Fickle", options=options)
    doomed.process.wait(60)
    start_worker(**environment)
    assert job.result(timeout=60).unrepeated == 1
