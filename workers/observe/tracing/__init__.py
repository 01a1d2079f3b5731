"""Traces of attempts, by OpenTelemetry (extra ``otel``): on after :func:`start`, and without cost until then.

An attempt is a span of the trace that its execution was submitted in; each model call and each tool call is a span
within it, and the other entries of its audit trail are its events. OpenTelemetry is not imported while
:func:`active` returns None.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workers.observe.tracing.spans import Spans

__all__ = ["ENDPOINTS", "active", "add_content", "lm_call", "start", "stop", "tool_call", "traceparent"]

log = logging.getLogger("dspex.workers")

#: Makes the spans of this process; None while it does not trace.
_active: Spans | None = None
#: OpenTelemetry's own variables, either of which turns tracing on.
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")

_NOTHING = nullcontext()


def start() -> None:
    """Trace from now on, if an endpoint is set and the extra is installed. An unusable configuration is logged."""
    global _active  # noqa: PLW0603 - as OpenTelemetry's own tracer provider: one for the process
    endpoint = next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), None)
    if endpoint is None or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return
    if os.environ.get("OTEL_TRACES_EXPORTER", "otlp") == "none":
        return
    try:
        from workers.observe.tracing.export import configure
        from workers.observe.tracing.spans import Spans

        configure()
    except ImportError as error:
        log.warning("an OTLP endpoint is set, but executions are not traced (%s): pip install 'dspex[otel]'", error)
        return
    except ValueError as error:
        log.error("executions are not traced: %s", error)  # noqa: TRY400 - the message is complete
        return
    _active = Spans()
    log.info("executions are traced, spans go to %s", endpoint.rpartition("@")[2])


def stop(seconds: float) -> None:
    """Send the remaining spans, for at most ``seconds``, and trace no more."""
    global _active  # noqa: PLW0603
    if _active is not None:
        from workers.observe.tracing.export import flush

        _active = None
        if not flush(seconds):
            log.warning("the last spans could not be sent within %g s", seconds)


def active() -> Spans | None:
    """The maker of spans; None when this process does not trace."""
    return _active


def lm_call(model: str) -> AbstractContextManager[object]:
    """The span of one model call, all its tries together, current until the block ends."""
    return _NOTHING if _active is None else _active.lm_call(model)


def tool_call(tool: str | None) -> AbstractContextManager[object]:
    """The span of one call of a tool, current until the block ends."""
    return _NOTHING if _active is None else _active.tool_call(tool)


def add_content(content: Callable[[], Mapping[str, Any]]) -> None:
    """Add attributes with a prompt, an answer, arguments or a result to the current span, where they are wanted: see
    :func:`workers.observe.tracing.message_content.is_content_wanted`."""
    if _active is not None:
        _active.add_content(content)


def traceparent() -> str | None:
    """The current span as a W3C ``traceparent`` header; None when there is no span."""
    return None if _active is None else _active.traceparent()
