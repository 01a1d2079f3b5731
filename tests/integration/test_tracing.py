"""Traces, from the producer over a real worker to a real collector."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

import dspex
from dspex.client.client import Client
from dspex.client.execution import Execution
from dspex.embedded.embedded_servers import EmbeddedServers
from dspex.embedded.ports import free_port
from dspex.settings import Backends
from tests.collector import Collector, ReceivedSpan, collecting
from tests.conftest import fresh_backends
from tests.model_server import ModelServer, Step, model_server
from tests.processes import WorkerProcess
from tests.waiting import wait_for

__all__ = ["model_server"]

QA = dspex.signature(":string question -> :string answer")
QUESTION = "What is the capital of Ruritania?"
OWN = "tests.own_programs"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


@pytest.fixture(scope="module")
def desk(
    servers: EmbeddedServers, collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Client, Callable[..., WorkerProcess]]]:
    """A client, and what starts workers that trace; one has been."""
    started: list[WorkerProcess] = []
    with fresh_backends(servers) as backends:

        def start() -> WorkerProcess:
            environment = {
                "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
                "OTEL_BSP_SCHEDULE_DELAY": 50,
                "DSPEX_PROGRAM_PACKAGES": OWN,
                "DSPEX_LEASE_SECONDS": 1,
            }
            log = tmp_path_factory.mktemp("traced") / "worker.log"
            worker = WorkerProcess(backends, log, environment)
            started.append(worker)
            worker.wait_until_ready()
            return worker

        start()
        with Client(database_url=backends.database_url, broker_url=backends.broker_url) as client:
            yield client, start
        for worker in started:
            worker.stop()


@pytest.fixture
def client(desk: tuple[Client, Callable[..., WorkerProcess]]) -> Client:
    return desk[0]


@pytest.fixture
def client_alone(backends: Backends) -> Iterator[Client]:
    """A client on servers of its own test's."""
    with Client(database_url=backends.database_url, broker_url=backends.broker_url) as opened:
        yield opened


@pytest.fixture
def tracer(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> Iterator[trace.Tracer]:
    """The tracer of an application that sends its spans to the collector."""
    provider = TracerProvider(resource=Resource({"service.name": "shop"}))
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{collector.url}/v1/traces")))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield trace.get_tracer("shop")
    provider.shutdown()


def deployed(client: Client, name: str, **settings: Any) -> str:
    client.deploy(dspex.Program(name, **{"signature": QA, "module": "predict", **settings}))
    return name


def one(collector: Collector, name: str, **attributes: Any) -> ReceivedSpan:
    found = wait_for(lambda: collector.named(name, **attributes), f"the span {name!r}")
    assert len(found) == 1
    return found[0]


def both(collector: Collector, name: str) -> list[ReceivedSpan]:
    wait_for(lambda: len(collector.named(name)) == 2, f"two spans {name!r}")
    return collector.named(name)


def traced(execution: Execution) -> list[str]:
    return [event.data["trace_id"] for event in execution.audit_trail if event.kind == "traced"]


def test_from_the_request_to_each_model_call_it_is_one_trace(
    client: Client, collector: Collector, tracer: trace.Tracer, model_server: ModelServer
) -> None:
    model_server.script(Step(status=503))
    name = deployed(client, "support", module=f"{OWN}:Support", model="openai/test", api_base=model_server.url)
    with tracer.start_as_current_span("POST /questions"):
        execution = client.submit(name, {"question": QUESTION}, timeout=60)
    assert execution.result(15)

    request = one(collector, "POST /questions")
    submit = one(collector, "dspex.submit support")
    attempt = one(collector, "dspex.execute support")
    calls = collector.named("chat test")
    assert {span.trace_id for span in (request, submit, attempt, *calls)} == {execution.trace_id}
    assert [submit.parent_id, attempt.parent_id] == [request.span_id, submit.span_id]
    assert [call.parent_id for call in calls] == [attempt.span_id] * 2
    assert (submit.kind, attempt.kind, calls[0].kind) == ("PRODUCER", "CONSUMER", "CLIENT")
    assert (submit.service, attempt.service) == ("shop", "dspex-worker")
    assert traced(execution) == [execution.trace_id]

    assert submit.attributes["dspex.execution.id"] == attempt.attributes["dspex.execution.id"] == str(execution.id)
    assert attempt.attributes["dspex.attempt"] == 1
    assert attempt.attributes["dspex.outcome"] == "completed"
    assert attempt.attributes["dspex.queue_time_ms"] > 0
    assert {"output_validation", "adapter_execution"} <= {name for name, _ in attempt.events}
    assert [call.events[0][1]["error.type"] for call in calls if call.events] == ["provider_unavailable"]
    for call in calls:
        assert call.attributes["gen_ai.provider.name"] == "openai"
        assert call.attributes["gen_ai.usage.input_tokens"] > 0
        assert not call.failed
    assert not [body for body in collector.raw if b"Ruritania" in body or b"capital" in body]


def test_calls_from_a_thread_are_within_their_attempt(
    client: Client, collector: Collector, model_server: ModelServer
) -> None:
    settings = {"module": f"{OWN}:Counting", "model": "openai/threaded", "api_base": model_server.url}
    assert client.execute(deployed(client, "counting", **settings), {"question": QUESTION}, timeout=60)
    assert one(collector, "chat threaded").parent_id == one(collector, "dspex.execute counting").span_id


def test_the_attempt_after_a_killed_worker_goes_on_in_the_trace(
    desk: tuple[Client, Callable[..., WorkerProcess]], collector: Collector, tracer: trace.Tracer
) -> None:
    client, start = desk
    name = deployed(client, "fragile", adapter="scripted", module_options={"calls": 2, "die": {"attempt": 1}})
    with tracer.start_as_current_span("GET /fragile"):
        execution = client.submit(name, {"question": QUESTION})
    start()
    assert execution.result(15)

    attempt = one(collector, "dspex.execute fragile")
    assert (attempt.trace_id, attempt.attributes["dspex.attempt"]) == (execution.trace_id, 2)
    replayed = collector.named("chat scripted", dspex__replayed=True)
    assert [span.parent_id for span in replayed] == [attempt.span_id] * 2
    assert traced(execution) == [execution.trace_id]


def test_an_execution_of_a_batch_has_a_trace_of_its_own_with_a_link_to_the_submit(
    client: Client, collector: Collector, tracer: trace.Tracer
) -> None:
    name = deployed(client, "bulk", adapter="scripted")
    with tracer.start_as_current_span("import"):
        batch = client.submit_many(name, [{"question": "one"}, {"question": "two"}])
    executions = list(batch.as_completed(60))

    submit = one(collector, "dspex.submit bulk")
    assert submit.attributes["messaging.batch.message_count"] == 2
    attempts = both(collector, "dspex.execute bulk")
    assert len({submit.trace_id, *(span.trace_id for span in attempts)}) == 3
    assert [span.links for span in attempts] == [[(submit.trace_id, submit.span_id)]] * 2
    assert {execution.trace_id for execution in executions} == {submit.trace_id}
    assert {id for execution in executions for id in traced(execution)} == {span.trace_id for span in attempts}


def test_a_failure_is_recorded_by_its_code(client: Client, collector: Collector, tracer: trace.Tracer) -> None:
    fail = {"code": "invalid_request", "times": 9}
    name = deployed(client, "failing", adapter="scripted", module_options={"fail": fail}, retry=dspex.Retry(2, 0.01))
    with pytest.raises(dspex.ExecutionFailed):
        client.execute(name, {"question": QUESTION}, timeout=60)
    attempts = both(collector, "dspex.execute failing")
    assert {span.trace_id for span in attempts} == {one(collector, "dspex.submit failing").trace_id}
    assert [(span.failed, span.attributes["error.type"]) for span in attempts] == [(True, "invalid_request")] * 2
    assert {span.attributes["dspex.outcome"] for span in attempts} == {"retried", "failed"}


def test_a_submit_without_a_trace_is_traced_from_the_worker_on(client: Client, collector: Collector) -> None:
    name = deployed(client, "untraced", adapter="scripted")
    execution = client.submit(name, {"question": QUESTION})
    assert execution.result(15)
    assert execution.trace_id is None
    assert traced(execution) == [one(collector, "dspex.execute untraced").trace_id]


def test_a_collector_gets_prompts_and_answers_once_the_variable_asks_for_them(
    start_worker: Callable[..., WorkerProcess], client_alone: Client, collector: Collector, model_server: ModelServer
) -> None:
    """The attributes that Langfuse, Phoenix and MLflow show, by OpenTelemetry's conventions for generative AI."""
    name = deployed(client_alone, "shown", model="openai/shown", api_base=model_server.url)
    start_worker(
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        OTEL_BSP_SCHEDULE_DELAY=50,
        OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT="true",
    )
    result = client_alone.execute(name, {"question": "Which tree is the tallest?"}, timeout=60)
    found = one(collector, "chat shown").attributes
    assert (found["gen_ai.operation.name"], found["gen_ai.request.model"]) == ("chat", "shown")
    (asked,), (answered,) = (json.loads(found[f"gen_ai.{side}.messages"]) for side in ("input", "output"))
    assert (asked["role"], answered["role"]) == ("user", "assistant")
    assert "Which tree is the tallest?" in asked["parts"][0]["content"]
    assert result["answer"] in answered["parts"][0]["content"]
    assert "answer" in json.loads(found["gen_ai.system_instructions"])[0]["content"]


def test_a_collector_that_is_away_costs_no_work(
    start_worker: Callable[..., WorkerProcess], client_alone: Client
) -> None:
    name = deployed(client_alone, "alone", adapter="scripted")
    away = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}", "OTEL_BSP_SCHEDULE_DELAY": 10}
    worker = start_worker(**away, OTEL_EXPORTER_OTLP_TIMEOUT=1)
    for _ in range(3):
        assert client_alone.execute(name, {"question": QUESTION}, timeout=60)
    wait_for(lambda: "opentelemetry.exporter" in worker.log.read_text(), "what cannot be sent")
    assert worker.stop() == 0
    assert worker.log.read_text().count("opentelemetry.exporter") == 1
