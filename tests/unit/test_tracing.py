"""Tracing: what turns it on, what its spans say, and that it is nothing where nobody traces."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from types import SimpleNamespace
from uuid import uuid4

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import dspex
from dspex.errors import ModelError
from dspex.store.lifecycle.executions import Claimed
from dspex.store.lifecycle.status import Status
from dspex.submit.trace_context import submitting
from tests.recording import a_run
from workers.adapters.dspy.dspy_hooks import install
from workers.adapters.dspy.engine_bridge import hosted_run
from workers.adapters.dspy.modules.tools import ObservedTool
from workers.attempt.attempt_trail import AttemptTrail
from workers.attempt.executor import Outcome
from workers.lm.connect.endpoint import Endpoints
from workers.lm.connect.http_transport import HttpTransport
from workers.lm.engine import RunEngine
from workers.observe import tracing
from workers.observe.tracing.spans import Spans

TRACE, SPAN = "0123456789abcdef" * 2, "0123456789abcdef"
QUESTION = "a question that nobody else may read"


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """What the spans of this process become, the worker's among them."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    monkeypatch.setattr(tracing, "_active", Spans())
    return exporter


def spans(exported: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exported.get_finished_spans()}


def header(span: ReadableSpan) -> str:
    """The span as W3C's traceparent."""
    context = span.context
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def claimed(traceparent: str | None = None, *, in_batch: bool = False) -> Claimed:
    now = datetime.now(UTC)
    return Claimed(
        uuid4(), "qa", "v", 1, 3, 60.0, "{}", now, now, now, uuid4(), traceparent=traceparent, in_batch=in_batch
    )


async def attempted(execution: Claimed) -> AttemptTrail:
    """The trail of an attempt at it that completes."""
    trails = []

    async def run(_: Claimed, trail: AttemptTrail) -> Outcome:
        trails.append(trail)
        trail.record("output_validation", valid=True, repairs=[{"path": "a", "what": "b"}], fields=["answer"])
        return Outcome(Status.COMPLETED)

    active = tracing.active()
    assert active is not None
    await active.attempt(execution, run)
    return trails[0]


# ------------------------------------------------------------------------------------------------------ on and off


@pytest.fixture
def _off(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(tracing, "_active", None)
    for name in tracing.ENDPOINTS:
        monkeypatch.delenv(name, raising=False)
    yield
    assert tracing.active() is None


@pytest.mark.usefixtures("_off")
def test_without_an_endpoint_nothing_is_traced() -> None:
    tracing.start()
    assert tracing.traceparent() is None
    with tracing.lm_call("openai/test"), tracing.tool_call("look_up"):
        pass
    tracing.stop(1.0)


@pytest.mark.usefixtures("_off")
@pytest.mark.parametrize(
    ("variables", "missing", "told"),
    [
        ({}, True, "pip install 'dspex[otel]'"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, False, "OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc'"),
        ({"OTEL_SDK_DISABLED": "true"}, False, ""),
        ({"OTEL_TRACES_EXPORTER": "none"}, False, ""),
    ],
)
def test_the_reason_why_a_worker_cannot_trace_is_logged(
    variables: dict[str, str],
    missing: bool,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, value in {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", **variables}.items():
        monkeypatch.setenv(name, value)
    if missing:
        monkeypatch.setitem(sys.modules, "workers.observe.tracing.export", None)
    with caplog.at_level(logging.WARNING):
        tracing.start()
    assert told in caplog.text
    assert bool(told) == bool(caplog.text)


# ---------------------------------------------------------------------------------------------------- the producer


def test_an_application_that_does_not_trace_pays_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "opentelemetry.trace")
    with submitting("qa") as submit:
        assert submit.traceparent is None
        submit.stored(uuid4())


def test_a_submit_hands_on_the_trace_it_is_in(exported: InMemorySpanExporter) -> None:
    with trace.get_tracer("shop").start_as_current_span("request") as request, submitting("qa") as submit:
        pass
    span = spans(exported)["dspex.submit qa"]
    assert span.parent == request.get_span_context()
    assert submit.traceparent == header(span)


def test_a_submit_that_fails_tells_its_code_and_not_its_message(exported: InMemorySpanExporter) -> None:
    with pytest.raises(dspex.ValidationError), submitting("qa"):
        raise dspex.ValidationError(QUESTION)
    span = spans(exported)["dspex.submit qa"]
    assert span.attributes is not None
    assert span.attributes["error.type"] == "validation_error"
    assert QUESTION not in span.to_json()


async def test_a_trace_goes_on_in_the_threads_of_the_asynchronous_client() -> None:
    variable: ContextVar[str] = ContextVar("variable", default="")
    async with dspex.AsyncClient(database_url="postgresql://nowhere/d", broker_url="redis://nowhere") as client:
        variable.set("here")
        assert await client._session.threads.run(variable.get) == "here"


# ------------------------------------------------------------------------------------------------------- the worker


async def test_an_attempt_goes_on_in_the_trace_of_its_submit(exported: InMemorySpanExporter) -> None:
    trail = await attempted(claimed(f"00-{TRACE}-{SPAN}-01"))
    span = spans(exported)["dspex.execute qa"]
    assert span.parent is not None
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, SPAN)
    assert f'"traced","at":"{trail.now().year}' in trail.encode()
    assert TRACE in trail.encode()
    assert dict(span.events[0].attributes or {}) == {"valid": True, "repairs": 1, "fields": ("answer",)}


async def test_one_of_a_batch_begins_a_trace_with_a_link(exported: InMemorySpanExporter) -> None:
    await attempted(claimed(f"00-{TRACE}-{SPAN}-01", in_batch=True))
    span = spans(exported)["dspex.execute qa"]
    assert span.parent is None
    assert [f"{link.context.trace_id:032x}" for link in span.links] == [TRACE]
    assert f"{span.context.trace_id:032x}" != TRACE


@pytest.mark.parametrize("stored", ["", "00-nonsense", f"00-{'0' * 32}-{SPAN}-01"])
async def test_what_is_no_trace_is_ignored(exported: InMemorySpanExporter, stored: str) -> None:
    await attempted(claimed(stored))
    assert spans(exported)["dspex.execute qa"].parent is None


async def test_a_trace_that_is_not_kept_leaves_nothing(exported: InMemorySpanExporter) -> None:
    trail = await attempted(claimed(f"00-{TRACE}-{SPAN}-00"))
    assert spans(exported) == {}
    assert "traced" not in trail.encode()


@pytest.mark.parametrize(
    ("model", "name", "provider"),
    [
        ("openai/gpt-4o-mini", "gpt-4o-mini", "openai"),
        ("gemini/gemini-2.0-flash", "gemini-2.0-flash", "gcp.gemini"),
        ("openrouter/meta-llama/llama-3", "meta-llama/llama-3", "openrouter"),
        ("litellm/azure/gpt-4o", "gpt-4o", "azure.ai.openai"),
        ("smollm2", "smollm2", None),
    ],
)
def test_a_model_and_its_provider_have_the_names_of_the_conventions(
    exported: InMemorySpanExporter, model: str, name: str, provider: str | None
) -> None:
    with tracing.lm_call(model):
        pass
    attributes = spans(exported)[f"chat {name}"].attributes or {}
    assert (attributes["gen_ai.request.model"], attributes.get("gen_ai.provider.name")) == (name, provider)


async def test_a_call_that_fails_or_is_cancelled_has_a_span(exported: InMemorySpanExporter) -> None:
    for name, error in (("busy", ModelError(QUESTION, code="rate_limited")), ("slow", asyncio.CancelledError())):
        with pytest.raises(type(error)), tracing.lm_call(f"openai/{name}"):
            raise error
    found = spans(exported)
    told = {name: (span.attributes or {})["error.type"] for name, span in found.items()}
    assert told == {"chat busy": "rate_limited", "chat slow": "CancelledError"}
    assert not any(QUESTION in span.to_json() for span in found.values())


async def test_a_tool_is_a_span_without_its_arguments(exported: InMemorySpanExporter) -> None:
    def look_up(country: str) -> str:
        """The capital of a country."""
        raise ValueError(country)

    program = dspex.Program(
        "agent", dspex.signature("question -> answer"), model="openai/test", api_base="http://127.0.0.1:1"
    )
    endpoints = Endpoints(lambda: "")
    install()
    with hosted_run(RunEngine(a_run(program, {"question": "?"}), await endpoints.of(program))):
        await ObservedTool(look_up).acall(country=QUESTION)
    await endpoints.aclose()
    span = spans(exported)["execute_tool look_up"]
    assert (span.attributes or {})["error.type"] == "ValueError"
    assert QUESTION not in span.to_json()


@pytest.mark.parametrize("asked", [True, False])
async def test_a_model_gets_the_trace_only_if_a_setting_allows_it(
    exported: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    monkeypatch.setenv("DSPEX_TRACE_TO_MODELS", str(asked))
    seen: list[str | None] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.headers.get("traceparent"))
        return web.Response()

    app = web.Application()
    app.router.add_post("/", answer)
    transport = HttpTransport()
    async with TestServer(app) as server:
        request = SimpleNamespace(method="POST", url=str(server.make_url("/")), headers=[], body=b"")
        with tracing.lm_call("openai/test"):
            async with transport.stream(request):
                pass
    await transport.aclose()
    span = spans(exported)["chat test"]
    assert seen == [header(span) if asked else None]
