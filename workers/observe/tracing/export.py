"""Where spans go: OpenTelemetry's SDK, set up by its own variables (``OTEL_*``), over OTLP/HTTP.

Spans are sent by a thread of the SDK's, from a bounded queue: a collector that is away costs the oldest spans, and
nothing else.
"""

from __future__ import annotations

import logging
import os
import threading
import time

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

__all__ = ["configure", "flush"]

#: What this worker is called where OTEL_SERVICE_NAME does not say.
SERVICE = "dspex-worker"
#: What cannot be sent is logged at most so often: a collector that is away fails several times in a second.
SAID_AGAIN_SECONDS = 60.0
_TALKERS = ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "opentelemetry.sdk._shared_internal")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


def configure() -> None:
    """Set the process's tracer provider, unless there is one already (``opentelemetry-instrument``).

    Raises ValueError for variables that cannot be used.
    """
    if isinstance(trace.get_tracer_provider(), TracerProvider):
        return
    protocol = next((os.environ[name] for name in _PROTOCOLS if os.environ.get(name)), "http/protobuf")
    if protocol != "http/protobuf":
        raise ValueError(
            f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol!r}, and spans are sent by 'http/protobuf' only: set that, and "
            "the endpoint that takes it (a collector's is port 4318)"
        )
    provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    for name in _TALKERS:
        logging.getLogger(name).addFilter(_Seldom())


def flush(seconds: float) -> bool:
    """Send what is left, for ``seconds`` at most. Whether all was sent, or given up, by then."""
    provider = trace.get_tracer_provider()
    assert isinstance(provider, TracerProvider)
    # The SDK's own limits of time do not hold: a send that is under way is waited for.
    sending = threading.Thread(target=provider.shutdown, name="otel-flush", daemon=True)
    sending.start()
    sending.join(seconds)
    return not sending.is_alive()


class _Seldom(logging.Filter):
    """Lets a record through, and then none for a while."""

    def __init__(self) -> None:
        super().__init__()
        self._quiet_until = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if now < self._quiet_until:
            return False
        self._quiet_until = now + SAID_AGAIN_SECONDS
        return True


def _resource() -> Resource:
    told = Resource.create()
    if str(told.attributes[SERVICE_NAME]).startswith("unknown_service"):
        told = told.merge(Resource({SERVICE_NAME: SERVICE}))
    return told
