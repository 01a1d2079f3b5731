"""A process killed at each place where a crash differs, and what holds afterwards."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Mapping, Sequence
from uuid import UUID

import psutil
import pytest

import dspex
from dspex.client.client import Client
from dspex.settings import Backends, failpoints
from tests.chaos.guarantees import assert_guarantees, long, paid_calls
from tests.model_server import ModelServer, Step, model_server
from tests.processes import Process, WorkerProcess, environment_of, start
from tests.waiting import wait_for

__all__ = ["model_server"]

StartWorker = Callable[..., WorkerProcess]

QA = dspex.signature("question -> answer")
#: Deaths are what these tests are made of: no execution may run out of attempts.
RETRY = dspex.Retry(max_attempts=20, backoff=0.05)
#: The shortest lease there is: recovery is soon.
LEASE = {"DSPEX_LEASE_SECONDS": 1}
MANY = 1500


def scripted(**options: object) -> dspex.Program:
    return dspex.Program("qa", QA, adapter="scripted", retry=RETRY, module_options=options)


def asking(server: ModelServer, adapter: str) -> dspex.Program:
    """A program of one model call, by DSPy or by the light adapter of these tests."""
    if adapter == "dspy":
        return dspex.Program("qa", QA, model="openai/test", api_base=server.url, retry=RETRY)
    return dspex.Program("qa", QA, adapter="steps", module_options={"server": server.url}, retry=RETRY)


def dies(process: Process, of: str) -> None:
    """Wait until the process was killed at its failpoint."""
    assert process.wait(60) == -signal.SIGKILL, f"it did not die of {of}"


def question(number: int) -> str:
    return f"what is number {number}?"


# ------------------------------------------------------------------------------------------------------ producers


def produce(backends: Backends, point: str, *arguments: str) -> Sequence[UUID]:
    """The ids that submits returned in a producer that is killed at ``point``."""
    with tempfile.TemporaryFile() as output:
        producer = start(
            "tests.chaos.producer",
            "qa",
            *arguments,
            environment=environment_of(backends, {"DSPEX_FAILPOINTS": point}),
            output=output,
        )
        dies(producer, point)
        output.seek(0)
        return [UUID(line) for line in output.read().decode().split()]


def test_a_producer_killed_anywhere_loses_nothing(
    backends: Backends, client: Client, start_worker: StartWorker
) -> None:
    client.deploy(scripted())
    for point in (failpoints.AFTER_INSERT, failpoints.BEFORE_PUBLISH, failpoints.AFTER_PUBLISH):
        before = len(client.list())
        returned = produce(backends, f"{point}=kill@3", "--rows", "5")
        assert len(returned) == 2
        assert set(returned) < {execution.id for execution in client.list()}
        assert len(client.list()) == before + 3, "the third was stored, though its submit never returned"
    start_worker()
    assert_guarantees(client, [execution.id for execution in client.list()])


@pytest.mark.parametrize(
    "point",
    [
        failpoints.BEFORE_INSERT,
        failpoints.AFTER_INSERT,
        long(failpoints.BEFORE_PUBLISH),
        long(failpoints.AFTER_PUBLISH),
    ],
)
def test_a_producer_killed_while_threads_share_a_statement_loses_nothing(
    point: str, backends: Backends, client: Client, start_worker: StartWorker
) -> None:
    client.deploy(scripted())
    returned = produce(backends, f"{point}=kill@3", "--rows", "400", "--threads", "20")
    stored = [execution.id for execution in client.list(limit=1000)]
    assert set(returned) <= set(stored), "what was returned is stored"
    assert len(stored) < 400
    if point != failpoints.BEFORE_INSERT:
        assert len(stored) > len(returned), "the statement of several callers was stored, and returned to none"
    start_worker()
    assert_guarantees(client, stored)


def test_a_producer_killed_in_a_batch_leaves_whole_chunks_that_run(
    backends: Backends, client: Client, start_worker: StartWorker
) -> None:
    client.deploy(scripted())
    assert produce(backends, "between_chunks=kill", "--batch", "--rows", str(MANY)) == []
    stored = client.list(limit=MANY)
    assert 0 < len(stored) < MANY
    start_worker()
    assert_guarantees(client, [execution.id for execution in stored])


# -------------------------------------------------------------------------------------------- workers, at a model


def untouched(then: Sequence[Mapping[str, object]], journaled: int) -> bool:
    return journaled == 0 and all(row["status"] == "queued" and row["attempt"] == 0 for row in then)


def claimed(then: Sequence[Mapping[str, object]], journaled: int) -> bool:
    return journaled == 0 and any(row["status"] == "running" for row in then)


def journaled_only(then: Sequence[Mapping[str, object]], journaled: int) -> bool:
    return journaled > 0 and not any(row["status"] == "completed" for row in then)


def settled(then: Sequence[Mapping[str, object]], journaled: int) -> bool:
    return journaled > 0 and any(row["status"] == "completed" for row in then)


@pytest.mark.parametrize(
    ("point", "adapter", "as_expected"),
    [
        (failpoints.BEFORE_CLAIM, "steps", untouched),
        long(failpoints.AFTER_CLAIM, "steps", claimed),
        (failpoints.AFTER_ANSWER, "dspy", claimed),
        (failpoints.AFTER_JOURNAL, "steps", journaled_only),
        long(failpoints.BEFORE_SETTLE, "dspy", journaled_only),
        (failpoints.AFTER_SETTLE, "steps", settled),
    ],
)
def test_a_worker_killed_around_a_model_call_pays_only_for_what_was_not_journaled(
    point: str,
    adapter: str,
    as_expected: Callable[[Sequence[Mapping[str, object]], int], bool],
    client: Client,
    model_server: ModelServer,
    start_worker: StartWorker,
) -> None:
    model_server.script(default=Step(delay_ms=20))
    client.deploy(asking(model_server, adapter))
    victim = start_worker(**LEASE, DSPEX_FAILPOINTS=f"{point}=kill")
    ids = [client.submit("qa", {"question": question(n)}).id for n in range(4)]
    dies(victim.process, point)
    journaled_then = paid_calls(client, ids)
    assert as_expected(client._session.rows(ids), sum(journaled_then))
    asked_then = asked(model_server)
    start_worker(**LEASE)
    assert_guarantees(client, ids)
    assert paid_calls(client, ids) == [client.get(id).metrics.lm_calls for id in ids] == [1] * 4
    for number, journaled in enumerate(journaled_then):
        # What was asked and not journaled was in flight at the kill: that, and only that, is asked again.
        assert asked(model_server)[number] == asked_then[number] + (0 if journaled else 1)


def test_an_execution_whose_last_attempt_was_lost_has_the_cost_of_all_of_its_calls(
    client: Client, model_server: ModelServer, start_worker: StartWorker
) -> None:
    """Its first attempt failed, and was recorded with one call. The second made another call, and was lost."""
    model_server.script(Step(), Step(status=503))
    twice = dspex.Retry(max_attempts=2, backoff=0.05)
    calls = dspex.signature(":string question, :integer calls -> :string answer")
    client.deploy(dspex.Program("qa", calls, adapter="steps", module_options={"server": model_server.url}, retry=twice))
    victim = start_worker(**LEASE, DSPEX_FAILPOINTS=f"{failpoints.AFTER_JOURNAL}=kill@2")
    execution = client.submit("qa", {"question": question(0), "calls": 3})
    dies(victim.process, failpoints.AFTER_JOURNAL)
    start_worker(**LEASE)
    with pytest.raises(dspex.ExecutionFailed):
        execution.result(60)
    assert execution.cause_code == "poisoned"
    assert_guarantees(client, [execution.id])
    assert paid_calls(client, [execution.id]) == [execution.metrics.lm_calls] == [2]
    tokens = [(call.prompt_tokens, call.completion_tokens) for call in execution.calls]
    metrics = execution.metrics
    assert (metrics.prompt_tokens, metrics.completion_tokens) == tuple(map(sum, zip(*tokens, strict=True)))
    assert metrics.cost_usd == pytest.approx(0.002)
    assert metrics.unpriced_lm_calls == 0


def asked(server: ModelServer) -> list[int]:
    """How often the model was asked each of the four questions."""
    bodies = [str(body) for body in server.calls()["requests"]]
    return [sum(question(number) in body for body in bodies) for number in range(4)]


# ------------------------------------------------------------------------------------- the pump, the reaper, the end


@pytest.mark.parametrize(
    "point", [failpoints.AFTER_DISPATCH, long(failpoints.BEFORE_PUBLISH), long(failpoints.AFTER_PUBLISH)]
)
def test_a_pump_killed_while_it_dispatches_loses_nothing(point: str, client: Client, start_worker: StartWorker) -> None:
    client.deploy(scripted())
    victim = start_worker(**LEASE, DSPEX_FAILPOINTS=f"{point}=kill")
    batch = client.submit_many("qa", [{"question": question(n)} for n in range(200)])
    dies(victim.process, point)
    start_worker(**LEASE)
    assert_guarantees(client, batch.ids)


@pytest.mark.parametrize("point", [long(failpoints.BEFORE_RECOVER), failpoints.AFTER_RECOVER])
def test_a_reaper_killed_at_its_work_is_replaced(point: str, client: Client, start_worker: StartWorker) -> None:
    client.deploy(scripted(sleep_ms=3000))
    first = start_worker(**LEASE)
    ids = [client.submit("qa", {"question": question(n)}).id for n in range(3)]
    wait_for(lambda: all(row["status"] == "running" for row in client._session.rows(ids)), "all to run")
    first.kill()
    dies(start_worker(**LEASE, DSPEX_FAILPOINTS=f"{point}=kill").process, point)
    start_worker(**LEASE)
    assert_guarantees(client, ids)


def test_a_stopping_worker_killed_after_its_hand_back_loses_nothing(client: Client, start_worker: StartWorker) -> None:
    client.deploy(scripted(sleep_ms=3000))
    victim = start_worker(DSPEX_GRACE_SECONDS=0, DSPEX_FAILPOINTS="after_hand_back=kill")
    ids = [client.submit("qa", {"question": question(n)}).id for n in range(3)]
    wait_for(lambda: all(row["status"] == "running" for row in client._session.rows(ids)), "all to run")
    victim.signal(signal.SIGTERM)
    dies(victim.process, failpoints.AFTER_HAND_BACK)
    assert all(row["status"] == "queued" for row in client._session.rows(ids)), "handed back before it died"
    start_worker()
    assert_guarantees(client, ids)


@pytest.mark.parametrize("point", [failpoints.AFTER_DISPATCH, long(failpoints.BEFORE_RECOVER)])
def test_a_worker_whose_pump_dies_of_a_bug_ends_instead_of_going_on_without_it(
    point: str, client: Client, start_worker: StartWorker
) -> None:
    client.deploy(scripted())
    victim = start_worker(**LEASE, DSPEX_FAILPOINTS=f"{point}=error")
    batch = client.submit_many("qa", [{"question": question(n)} for n in range(20)])
    assert victim.process.wait(60) == os.EX_SOFTWARE
    assert "thread dspex-pump died of a bug; this worker ends" in victim.log.read_text()
    assert "FailpointReached" in victim.log.read_text()
    start_worker(**LEASE)
    assert_guarantees(client, batch.ids)


# ----------------------------------------------------------------------------------- a worker that only stood still


def test_a_worker_stopped_at_its_settlement_and_resumed_after_its_lease_changes_nothing(
    client: Client, start_worker: StartWorker
) -> None:
    client.deploy(scripted())
    frozen = start_worker(**LEASE, DSPEX_FAILPOINTS="before_settle=stop@1")
    execution = client.submit("qa", {"question": question(0)})
    wait_for(lambda: psutil.Process(frozen.pid).status() == psutil.STATUS_STOPPED, "the worker to stand still")
    other = start_worker(**LEASE)
    execution.result(timeout=60)
    as_recorded = client._session.row(execution.id)
    frozen.signal(signal.SIGCONT)
    wait_for(lambda: "attempt 1 is discarded" in frozen.log.read_text(), "the resumed worker to find its lease lost")
    assert client._session.row(execution.id) == as_recorded
    assert execution.attempts == 2
    assert_guarantees(client, [execution.id])
    wait_for(lambda: frozen.pid in {row["pid"] for row in client.workers()}, "it to be back under a new id")
    other.stop()
    client.execute("qa", {"question": "asked of the resumed worker"}, timeout=60)


def test_a_worker_stopped_in_the_middle_of_its_calls_settles_none_of_them_later(
    client: Client, start_worker: StartWorker
) -> None:
    client.deploy(scripted(sleep_ms=300, calls=3))
    frozen = start_worker(**LEASE)
    ids = [client.submit("qa", {"question": question(n)}).id for n in range(5)]
    wait_for(lambda: all(paid_calls(client, ids)), "a first call of each")
    frozen.signal(signal.SIGSTOP)
    start_worker(**LEASE)
    assert_guarantees(client, ids)
    as_recorded = {id: client._session.row(id) for id in ids}
    frozen.signal(signal.SIGCONT)
    wait_for(lambda: "lost its lease" in frozen.log.read_text(), "the resumed worker to find its lease lost")
    wait_for(lambda: all(w["running"] == 0 for w in client.workers()), "nothing to run")
    assert {id: client._session.row(id) for id in ids} == as_recorded
    assert_guarantees(client, ids)
    assert set(paid_calls(client, ids)) <= {3, 4}, "beyond its three, the call that was in flight at the stop"
