"""Prompts and answers in traces: by OpenTelemetry's variable, and in the form of its conventions."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.compat.memory import MemoryCalls
from tests.recording import MemoryTrail
from workers.adapters.contract import Answer
from workers.lm.journal import AttemptJournal
from workers.lm.model_calls import ModelCalls
from workers.observe import tracing
from workers.observe.tracing.message_content import call_content, is_content_wanted
from workers.observe.tracing.spans import Spans

VARIABLE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
REQUEST = {
    "model": "openai/test",
    "system": "Be brief.",
    "messages": [
        {"role": "user", "parts": [{"type": "text", "text": "Where?"}, {"type": "image", "media_type": "image/png",
                                                                        "data": "AAAA"}]},
        {"role": "assistant", "parts": [{"type": "thinking", "text": "Hm."},
                                        {"type": "tool_call", "id": "1", "name": "look", "input": {"city": "Rome"}}]},
        {"role": "tool", "parts": [{"type": "tool_result", "id": "1", "content": [{"type": "text", "text": "warm"}]}]},
    ],
    "config": {"temperature": 0.5, "max_tokens": 10, "extensions": {"seed": 1}},
}  # fmt: skip
RESPONSE = {
    "model": "test-1", "finish_reason": "stop",
    "message": {"role": "assistant", "parts": [{"type": "text", "text": "In Rome."}]},
}  # fmt: skip


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("true", True),
        ("SPAN_ONLY", True),
        ("span_and_event", True),
        ("event_only", False),
        ("false", False),
        ("", False),
    ],
)
def test_it_is_off_until_the_variable_asks_for_it(value: str, wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, value)
    assert is_content_wanted() is wanted


def test_a_call_has_the_form_of_the_conventions() -> None:
    found = call_content(REQUEST, RESPONSE)
    user, assistant, tool = json.loads(found["gen_ai.input.messages"])
    assert user["parts"] == [{"type": "text", "content": "Where?"}, {"type": "image", "mime_type": "image/png"}]
    assert assistant["parts"][0] == {"type": "reasoning", "content": "Hm."}
    assert assistant["parts"][1] == {"type": "tool_call", "id": "1", "name": "look", "arguments": {"city": "Rome"}}
    assert tool["parts"][0]["response"] == [{"type": "text", "content": "warm"}]
    assert json.loads(found["gen_ai.system_instructions"]) == [{"type": "text", "content": "Be brief."}]
    (answer,) = json.loads(found["gen_ai.output.messages"])
    assert answer == {"role": "assistant", "parts": [{"type": "text", "content": "In Rome."}], "finish_reason": "stop"}
    assert (found["gen_ai.request.temperature"], found["gen_ai.request.max_tokens"]) == (0.5, 10)
    assert (found["gen_ai.response.model"], found["gen_ai.response.finish_reasons"]) == ("test-1", ["stop"])
    assert "AAAA" not in str(found)


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    monkeypatch.setenv(VARIABLE, "true")
    monkeypatch.setattr(tracing, "_active", Spans())
    return exporter


def model_calls(*, shows_content: bool) -> ModelCalls:
    return ModelCalls(AttemptJournal(uuid4(), 1, MemoryCalls()), MemoryTrail(), shows_content=shows_content)


async def ask() -> Answer:
    return Answer(dict(RESPONSE))


@pytest.mark.parametrize("shows", [True, False])
async def test_spans_have_it_where_the_program_keeps_it(exported: InMemorySpanExporter, shows: bool) -> None:
    calls = model_calls(shows_content=shows)
    await calls.perform("ab" * 32, "openai/test", ask, request=REQUEST)
    with tracing.tool_call("look"):
        calls.show_tool({"city": "Rome"}, "warm")
    found: dict[str, Any] = {span.name: dict(span.attributes or {}) for span in exported.get_finished_spans()}
    assert ("gen_ai.output.messages" in found["chat test"]) is shows
    assert found["execute_tool look"].get("gen_ai.tool.call.result") == ('"warm"' if shows else None)
    assert ("Rome" in str(found)) is shows
