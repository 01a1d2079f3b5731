"""From submit to result through a real worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

import dspex
from dspex.client.client import Client
from dspex.store.database import Database
from tests.processes import WorkerProcess

StartWorker = Callable[..., WorkerProcess]

HAPPY_PATH = [
    "signature_compilation",
    "input_validation",
    "submitted",
    "claimed",
    "adapter_execution",
    "lm_call",
    "output_validation",
    "result_serialization",
    "completed",
]


def scripted(name: str = "qa", signature: str = "question -> answer", **fields: object) -> dspex.Program:
    return dspex.Program(name, dspex.signature(signature), adapter="scripted", **fields)  # type: ignore[arg-type]


def test_an_execution_completes_with_typed_outputs_and_a_whole_trail(shared_client: Client) -> None:
    client = shared_client
    client.deploy(scripted(module_options={"outputs": {"answer": "Paris"}}))
    execution = client.submit("qa", {"question": "What is the capital of France?"})
    result = execution.result(timeout=60)
    assert result.answer == result["answer"] == "Paris"
    assert dict(result) == {"answer": "Paris"}
    assert execution.status is dspex.Status.COMPLETED
    trail = execution.audit_trail
    assert trail.kinds == HAPPY_PATH
    assert trail.verify()
    assert execution.metrics.lm_calls == 1
    assert execution.metrics.prompt_tokens == 10
    assert execution.attempts == 1
    assert execution.adapter_used == "scripted"
    assert execution.inputs == {"question": "What is the capital of France?"}


def test_a_batch_completes_and_reports_the_rows_it_refused(shared_client: Client) -> None:
    client = shared_client
    client.deploy(scripted())
    rows: list[dict[str, object]] = [{"question": f"number {n}"} for n in range(50)]
    rows[7] = {"question": 7}
    rows[9] = {"frage": "?"}
    batch = client.submit_many("qa", rows)
    assert [rejected.index for rejected in batch.rejected] == [7, 9]
    finished = list(batch.as_completed(timeout=60))
    assert {execution.id for execution in finished} == set(batch.ids)
    assert all(execution.audit_trail.verify() for execution in finished[:5])
    assert batch.progress.completed == 48
    assert batch.indexes[7] == 8


def test_transient_failures_are_retried_and_the_journal_keeps_what_was_paid(shared_client: Client) -> None:
    client = shared_client
    client.deploy(
        scripted(
            retry=dspex.Retry(max_attempts=3, backoff=0.05),
            module_options={"fail": {"code": "provider_unavailable", "times": 2}},
        )
    )
    execution = client.submit("qa", {"question": "?"})
    execution.result(timeout=60)
    assert execution.attempts == 3
    assert execution.audit_trail.kinds.count("retried") == 2
    assert execution.audit_trail.verify()


def test_spent_attempts_are_a_dead_letter(shared_client: Client) -> None:
    client = shared_client
    options = {"fail": {"code": "rate_limited", "times": 9}}
    client.deploy(scripted("doomed", retry=dspex.Retry(max_attempts=2, backoff=0.05), module_options=options))
    execution = client.submit("doomed", {"question": "?"})
    with pytest.raises(dspex.ExecutionFailed) as failure:
        execution.result(timeout=60)
    assert failure.value.code == "attempts_exhausted"
    assert failure.value.attempts == 2
    assert [e.id for e in client.list(program="doomed", status="failed")] == [execution.id]
    assert execution.audit_trail.verify()


def test_outputs_that_do_not_fit_the_signature_fail_the_execution(shared_client: Client) -> None:
    client = shared_client
    client.deploy(
        scripted(
            signature="question -> rating: int",
            retry=dspex.Retry(max_attempts=1),
            module_options={"outputs": {"rating": "none at all"}},
        )
    )
    with pytest.raises(dspex.ExecutionFailed) as failure:
        client.execute("qa", {"question": "?"}, timeout=60)
    assert "rating" in str(failure.value)


@dataclass
class Answer:
    answer: str


@dataclass
class Rating:
    answer: int


class NoField:
    pass


@pytest.mark.parametrize("timeout", [60.0, 5.0])  # by one wait, and by a submit and a wait
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_result_is_an_instance_of_a_class_and_no_paid_one_is_lost(
    shared_client: Client, timeout: float, asynchronous: bool
) -> None:
    client = shared_client
    name = f"typed-{timeout:g}-{asynchronous}"
    client.deploy(scripted(name, module_options={"outputs": {"answer": "Paris"}}))

    def execute(kind: type[Any]) -> Any:
        if not asynchronous:
            return client.execute(name, {"question": "?"}, result_type=kind, timeout=timeout)

        async def run() -> Any:
            async with dspex.AsyncClient(client.settings) as twin:
                return await twin.execute(name, {"question": "?"}, result_type=kind, timeout=timeout)

        return asyncio.run(run())

    with pytest.raises(dspex.ValidationError, match="NoField cannot be the type of a result"):
        execute(NoField)
    assert not list(client.list(program=name))
    assert execute(Answer) == Answer("Paris")
    with pytest.raises(dspex.ValidationError, match=r"the stored result of execution \S+ as Rating: answer: ") as error:
        execute(Rating)
    assert client.get(error.value.details["execution_id"]).result() == {"answer": "Paris"}


def test_an_outcome_that_postgres_refuses_fails_the_execution_and_nothing_else(
    client: Client, database: Database, start_worker: StartWorker
) -> None:
    refusal = "ALTER TABLE dspex.executions ADD CHECK (result::text NOT LIKE '%unwanted%')"
    database.run(lambda connection: connection.exec_driver_sql(refusal.replace("%", "%%")))
    start_worker()
    client.deploy(scripted(module_options={"outputs": {"answer": "unwanted"}}))
    client.deploy(scripted("good"))
    refused = [client.submit("qa", {"question": "?"}) for _ in range(3)]
    fine = [client.submit("good", {"question": "?"}) for _ in range(3)]
    for execution in fine:
        execution.result(timeout=60)
    for execution in refused:
        with pytest.raises(dspex.ExecutionFailed) as failure:
            execution.result(timeout=60)
        assert failure.value.code == "not_storable"
        assert "completed" not in execution.audit_trail.kinds
        assert execution.audit_trail.verify()
