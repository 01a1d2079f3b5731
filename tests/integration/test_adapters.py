"""Several adapters for one program, third parties' among them, in a real worker."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import dspex
from dspex.client.client import Client
from dspex.embedded.embedded_servers import EmbeddedServers
from dspex.program.adapters import look_again
from tests.conftest import fresh_backends
from tests.model_server import ModelServer, Step
from tests.processes import WorkerProcess

ROOT = Path(__file__).parents[2]
QA = dspex.signature("question -> answer")


@pytest.fixture(scope="module")
def model() -> Iterator[ModelServer]:
    with ModelServer() as server:
        yield server


@pytest.fixture(scope="module")
def client(servers: EmbeddedServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client and a worker, both with the adapters of tests/integration/other_adapters.py installed."""
    plugin = Path(__file__).parent / "plugin"
    log = tmp_path_factory.mktemp("adapters") / "worker.log"
    with pytest.MonkeyPatch.context() as patch, fresh_backends(servers) as backends:
        patch.syspath_prepend(str(plugin))
        look_again()
        # By a prefix, and so a new interpreter: what it has loaded is asserted.
        path = os.pathsep.join([str(ROOT), str(plugin)])
        worker = WorkerProcess(backends, log, {"PYTHONPATH": path}, prefix=["env"])
        try:
            worker.wait_until_ready()
            with Client(database_url=backends.database_url, broker_url=backends.broker_url) as opened:
                yield opened
        finally:
            worker.stop()
    look_again()


def program(model: ModelServer, *adapters: str) -> dspex.Program:
    retry = dspex.Retry(max_attempts=2, backoff=0.05)
    return dspex.Program("-".join(adapters), QA, adapter=adapters, model="openai/test", api_base=model.url, retry=retry)


def tried(execution: dspex.Execution) -> list[tuple[str, str | None]]:
    events = [event for event in execution.audit_trail if event.kind == "adapter_execution"]
    return [(event.data["adapter"], event.data.get("error")) for event in events]


def test_a_worker_without_dspy_programs_never_loads_dspy(client: Client, model: ModelServer) -> None:
    """It is first in this module: a later program of the same worker has it loaded."""
    model.script()
    client.deploy(program(model, "direct"))
    told = dspex.signature("question -> modules: list[str], memory_mb: float")
    client.deploy(dspex.Program("loaded", told, adapter="loaded"))
    assert client.execute("direct", {"question": "What is the capital of France?"}, timeout=60).answer
    result = client.execute("loaded", {"question": "What is loaded?"}, timeout=60)
    assert not {"dspy", "litellm", "openai", "numpy"} & set(result.modules)
    assert {"lm15", "celery", "aiohttp"} <= set(result.modules)


def test_the_next_adapter_is_tried_when_it_may_succeed(client: Client, model: ModelServer) -> None:
    model.script(default=Step(outputs={"answer": "Paris"}))
    deployed = client.deploy(program(model, "absent", "stubborn", "direct"))
    name = deployed.program.name
    for code in ("output_unparseable", "output_invalid", "unsupported"):
        execution = client.submit(name, {"question": code})
        assert execution.result(timeout=60).answer == "Paris"
        assert execution.adapter_used == "direct"
        assert tried(execution) == [("absent", "adapter_unavailable"), ("stubborn", code), ("direct", None)]
        assert (execution.attempts, execution.metrics.lm_calls) == (1, 2)
        assert execution.audit_trail.verify()
    asked = model.calls()["total"]
    refused = client.submit(name, {"question": "authentication"})
    with pytest.raises(dspex.ExecutionFailed) as failure:
        refused.result(timeout=60)
    assert failure.value.code == "authentication"
    assert tried(refused) == [("absent", "adapter_unavailable"), ("stubborn", "authentication")]
    assert model.calls()["total"] == asked


def test_what_was_paid_for_before_the_fallback_is_not_paid_for_again(client: Client, model: ModelServer) -> None:
    """The first adapter's answer is bad; the second adapter's model is away; the next attempt comes back to it."""
    away = Step(status=503, retry_after=0, times=3)  # as often as one attempt asks
    model.script(away, default=Step(outputs={"answer": "Paris"}))
    client.deploy(program(model, "stubborn", "direct"))
    execution = client.submit("stubborn-direct", {"question": "output_unparseable: and then away"})
    assert execution.result(timeout=60).answer == "Paris"
    assert tried(execution) == [
        ("stubborn", "output_unparseable"), ("direct", "provider_unavailable"),
        ("stubborn", "output_unparseable"), ("direct", None),
    ]  # fmt: skip
    assert (execution.attempts, execution.metrics.lm_calls, execution.metrics.replayed_lm_calls) == (2, 2, 1)


def test_when_none_can_the_bad_answers_are_asked_for_anew(client: Client, model: ModelServer) -> None:
    model.script(default=Step(content="I would rather not say."))
    client.deploy(program(model, "stubborn", "direct"))
    execution = client.submit("stubborn-direct", {"question": "output_unparseable: by both"})
    with pytest.raises(dspex.ExecutionFailed, match="attempt 2 failed with output_unparseable") as failure:
        execution.result(timeout=60)
    assert failure.value.code == "attempts_exhausted"
    assert execution.metrics.replayed_lm_calls == 0
    assert execution.metrics.lm_calls == 6  # in each attempt one answer of each adapter, and a repair
    assert execution.adapter_used is None


@pytest.mark.case("http-02-context-overflow-llama-cpp")
@pytest.mark.case("http-05-schema-keyword-unknown-to-vllm")
@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('Grammar error: Unimplemented keys: ["uniqueItems"]', "invalid_request"),
        ("request (30031 tokens) exceeds the available context size (4096 tokens)", "context_window_exceeded"),
    ],
)
def test_what_direct_may_not_ask_by_schema_dspy_may_get(
    client: Client, model: ModelServer, text: str, code: str
) -> None:
    """The server refuses every request with a schema, or finds it too long."""
    refused = Step(status=500, error={"message": text}, match="json_schema", times=9)
    model.script(refused, default=Step(outputs={"tags": ["a"]}))
    made = dspex.signature(":string text -> :list(:string, unique=true) tags")
    name = f"tag-{code.replace('_', '-')}"
    client.deploy(dspex.Program(name, made, adapter=("direct", "dspy"), model=f"openai/{code}", api_base=model.url))
    for asked in (3, 2) if code == "invalid_request" else (2, 2):  # the refused keywords are sent once
        before = model.calls()["total"]
        execution = client.submit(name, {"text": f"{asked} requests"})
        assert execution.result(timeout=60).tags == ["a"]
        assert tried(execution) == [("direct", code), ("dspy", None)]
        assert (execution.attempts, model.calls()["total"] - before) == (1, asked)


def test_what_dspy_cannot_read_direct_may_get_by_schema(client: Client, model: ModelServer) -> None:
    """The model knows nothing of DSPy's markers, and answers by schema."""
    model.script(
        Step(match="[[ ## ", content="I would rather not say.", times=2), default=Step(outputs={"answer": "Paris"})
    )
    client.deploy(program(model, "dspy", "direct"))
    execution = client.submit("dspy-direct", {"question": "What is the capital of France?"})
    assert execution.result(timeout=60).answer == "Paris"
    assert execution.adapter_used == "direct"
    assert tried(execution) == [("dspy", "output_unparseable"), ("direct", None)]
    assert execution.metrics.lm_calls == 3  # DSPy's, its repair, and the direct one
