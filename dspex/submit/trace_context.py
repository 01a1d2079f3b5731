"""OpenTelemetry traces of submits: a span in the application's trace, whose context is stored with the execution.

Only W3C's ``traceparent`` is stored: ids and the sampling decision, no user data. Each attempt continues the trace
(workers/observe/tracing), however much later.

OpenTelemetry is not imported here: an application that traces has imported it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from uuid import UUID

__all__ = ["Submitting", "is_traced", "submitting"]

_API = "opentelemetry.trace"


class Submitting:
    """A submit under way. ``traceparent`` is stored with its executions; None without a trace."""

    def __init__(self, span: Any = None) -> None:
        self._span = span
        self.traceparent = None if span is None else _traceparent(span.get_span_context())

    def stored(self, id: UUID) -> None:
        """Record the id of the submitted execution in the span."""
        if self._span is not None:
            self._span.set_attributes({"messaging.message.id": str(id), "dspex.execution.id": str(id)})


_UNTRACED = nullcontext(Submitting())


def submitting(program: str, *, count: int | None = None) -> AbstractContextManager[Submitting]:
    """The span of a submit, or of ``count`` rows of a batch; it is the current span until the block ends."""
    return _span(sys.modules[_API], program, count) if is_traced() else _UNTRACED


def is_traced() -> bool:
    """Whether there is a tracer, or a span to continue: other libraries import OpenTelemetry for those that trace."""
    api: Any = sys.modules.get(_API)
    if api is None:
        return False
    if not isinstance(api.get_tracer_provider(), api.ProxyTracerProvider):
        return True
    return bool(api.get_current_span().get_span_context().is_valid)


@contextmanager
def _span(api: Any, program: str, count: int | None) -> Iterator[Submitting]:
    attributes: dict[str, Any] = {
        "messaging.system": "dspex",
        "messaging.operation.name": "submit",
        "messaging.operation.type": "send",
        "messaging.destination.name": program,
    }
    if count is not None:
        attributes["messaging.batch.message_count"] = count
    # An error is recorded by its class or code only, as its text may quote an input.
    with api.get_tracer("dspex").start_as_current_span(
        f"dspex.submit {program}", kind=api.SpanKind.PRODUCER, attributes=attributes, record_exception=False,
        set_status_on_exception=False,
    ) as span:  # fmt: skip
        try:
            yield Submitting(span)
        except Exception as error:
            span.set_attribute("error.type", getattr(error, "code", type(error).__qualname__))
            span.set_status(api.StatusCode.ERROR)
            raise


def _traceparent(context: Any) -> str | None:
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
