"""The export of spans: OpenTelemetry's SDK, configured by its own variables (``OTEL_*``), over OTLP/HTTP.

A thread of the SDK sends spans from a bounded queue. While the collector is out of reach, the oldest spans are lost and
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

#: The service name when OTEL_SERVICE_NAME is not set.
SERVICE = "dspex-worker"
#: Failures to send are logged at this interval: without a collector there are several in a second.
LOG_INTERVAL_SECONDS = 60.0
_LOGGERS = ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "opentelemetry.sdk._shared_internal")
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
            "an endpoint for it (port 4318 of a collector)"
        )
    provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_Seldom())


def flush(seconds: float) -> bool:
    """Send the remaining spans. Returns whether the SDK has finished within ``seconds``."""
    provider = trace.get_tracer_provider()
    assert isinstance(provider, TracerProvider)
    # The SDK does not keep its own time limits: it waits for a send that is under way.
    sending = threading.Thread(target=provider.shutdown, name="otel-flush", daemon=True)
    sending.start()
    sending.join(seconds)
    return not sending.is_alive()


class _Seldom(logging.Filter):
    """Passes one record in each interval."""

    def __init__(self) -> None:
        super().__init__()
        self._quiet_until = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if now < self._quiet_until:
            return False
        self._quiet_until = now + LOG_INTERVAL_SECONDS
        return True


def _resource() -> Resource:
    resource = Resource.create()
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: SERVICE}))
    return resource
