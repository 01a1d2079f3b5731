"""Settings of health, monitoring and alerts."""

from __future__ import annotations

from pydantic import BaseModel, Field

__all__ = ["MonitoringSettings"]


class MonitoringSettings(BaseModel):
    """Health and monitoring."""

    health_interval_seconds: float = Field(15.0, ge=1, le=3600, description="How often beat has the health checked.")
    http_port: int | None = Field(
        None,
        ge=1,
        le=65_535,
        description="Where a worker answers /health/live, /health/ready, /health and /metrics; not set: nowhere. "
        "The second process of `dspex worker` takes the next port, and so on.",
    )
    http_address: str = Field("127.0.0.1", description="The address of that port; 0.0.0.0 for those outside.")
    trace_to_models: bool = Field(
        False,
        description="Send the header `traceparent` with each request to a model, for servers of your own that trace. "
        "Tracing itself is set up by `OTEL_*`.",
    )
