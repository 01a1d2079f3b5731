"""The spans of attempts, by OpenTelemetry's conventions for messaging and for generative AI.

They hold what the audit trail holds: names, numbers and codes; no inputs, prompts, outputs or error messages, unless
OpenTelemetry's variable asks for prompts and answers, of programs that keep them and seal nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from dspex.errors import DspexError
from dspex.store.lifecycle.executions import Claimed
from workers.attempt.attempt_trail import AttemptTrail
from workers.observe import metrics
from workers.observe.tracing.message_content import is_content_wanted

if TYPE_CHECKING:
    from workers.attempt.executor import Outcome

__all__ = ["Spans", "TracedTrail"]

_PROPAGATOR = TraceContextTextMapPropagator()
#: Events that their span's end, or a span of their own, shows already.
_NO_EVENT = frozenset({"completed", "tool_call"})
#: The fields of an ``lm_call`` event, as attributes of its span.
_CALL = {
    "prompt_tokens": "gen_ai.usage.input_tokens",
    "completion_tokens": "gen_ai.usage.output_tokens",
    "cost_usd": "dspex.cost_usd",
    "request_id": "dspex.request_id",
    "replayed": "dspex.replayed",
    "repair": "dspex.repair",
}
#: Providers that have another name in the conventions.
_PROVIDERS = {
    "azure": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "vertex_ai": "gcp.vertex_ai",
}


class Spans:
    """Makes the spans of this process."""

    def __init__(self) -> None:
        self._tracer = trace.get_tracer("dspex", version("dspex"))
        self._wants_content = is_content_wanted()

    async def attempt(self, claimed: Claimed, run: Callable[[Claimed, AttemptTrail], Awaitable[Outcome]]) -> Outcome:
        """Make the attempt with ``run``, within a span that is current meanwhile. Returns its outcome."""
        parent, links = _origin(claimed)
        span = self._tracer.start_span(
            f"dspex.execute {claimed.program}", context=parent, kind=SpanKind.CONSUMER, links=links,
            attributes=_attempt(claimed),
        )  # fmt: skip
        with _current(span):
            outcome = await run(claimed, TracedTrail(claimed.started_at, span))
            span.set_attribute("dspex.outcome", metrics.outcome(outcome.status, outcome.error))
            if outcome.error is not None:
                _failed(span, outcome.error)
            return outcome

    @contextmanager
    def lm_call(self, model: str) -> Iterator[None]:
        """See :func:`workers.observe.tracing.lm_call`."""
        provider, slash, name = model.removeprefix("litellm/").partition("/")
        if not slash:  # the bundled model
            provider, name = "", model
        attributes = {"gen_ai.operation.name": "chat", "gen_ai.request.model": name}
        if provider:
            attributes["gen_ai.provider.name"] = _PROVIDERS.get(provider, provider)
        with _current(self._tracer.start_span(f"chat {name}", kind=SpanKind.CLIENT, attributes=attributes)):
            yield

    @contextmanager
    def tool_call(self, tool: str | None) -> Iterator[None]:
        """See :func:`workers.observe.tracing.tool_call`."""
        attributes = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": str(tool)}
        with _current(self._tracer.start_span(f"execute_tool {tool}", attributes=attributes)):
            yield

    def add_content(self, content: Callable[[], Mapping[str, Any]]) -> None:
        """See :func:`workers.observe.tracing.add_content`."""
        if self._wants_content and (span := trace.get_current_span()).is_recording():
            span.set_attributes(content())

    def traceparent(self) -> str | None:
        """See :func:`workers.observe.tracing.traceparent`."""
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier)
        return carrier.get("traceparent")


class TracedTrail(AttemptTrail):
    """A trail that also adds its events to the current span, or to the attempt's. Its first event is the trace's id."""

    def __init__(self, anchor: datetime, span: Span) -> None:
        super().__init__(anchor)
        self._span = span
        if span.is_recording():
            super().record("traced", trace_id=f"{span.get_span_context().trace_id:032x}")

    def record(self, kind: str, *, began_at: datetime | None = None, **data: Any) -> None:
        """Append an event."""
        super().record(kind, began_at=began_at, **data)
        current = trace.get_current_span()
        span = current if current.is_recording() else self._span
        if not span.is_recording() or kind in _NO_EVENT:
            return
        if kind != "lm_call":
            span.add_event(kind, _plain(data))
        elif "error" in data:
            span.add_event("failed try", _plain({"error.type": data["error"], "request_id": data["request_id"]}))
        else:
            span.set_attributes({_CALL[key]: data[key] for key in _CALL if data.get(key) is not None})


def _origin(claimed: Claimed) -> tuple[Context, list[Link]]:
    """The parent of the attempt's span, and its links.

    An execution continues the trace of its submit. The executions of a batch would all share one trace, so each of
    their attempts has its own, with a link to the submit.
    """
    if claimed.traceparent is None:
        return Context(), []
    submit = _PROPAGATOR.extract({"traceparent": claimed.traceparent}, context=Context())
    if not claimed.in_batch:
        return submit, []
    return Context(), [Link(trace.get_current_span(submit).get_span_context())]


def _attempt(claimed: Claimed) -> Mapping[str, Any]:
    due_at = max(claimed.created_at, claimed.run_at)
    return {
        "messaging.system": "dspex",
        "messaging.operation.name": "execute",
        "messaging.operation.type": "process",
        "messaging.destination.name": claimed.program,
        "messaging.message.id": str(claimed.id),
        "dspex.execution.id": str(claimed.id),
        "dspex.program.version": claimed.version,
        "dspex.attempt": claimed.attempt,
        "dspex.worker.id": str(claimed.worker_id),
        "dspex.queue_time_ms": round((claimed.started_at - due_at).total_seconds() * 1000, 3),
    }


@contextmanager
def _current(span: Span) -> Iterator[None]:
    """Make the span current until the block ends, and end it. An error of the block is recorded by code or class."""
    with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        try:
            yield
        except BaseException as error:
            _failed(span, error)
            raise


def _failed(span: Span, error: BaseException) -> None:
    span.set_attribute("error.type", error.code if isinstance(error, DspexError) else type(error).__qualname__)
    span.set_status(StatusCode.ERROR)


def _plain(data: Mapping[str, Any]) -> dict[str, Any]:
    """An event's data as attributes. Repairs are counted only: a path may contain the words of a model."""
    plain = {key: len(value) if key == "repairs" else value for key, value in data.items()}
    return {key: value for key, value in plain.items() if isinstance(value, str | bool | int | float | list)}
