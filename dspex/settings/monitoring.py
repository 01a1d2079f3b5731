"""Settings of health, monitoring and alerts."""

from __future__ import annotations

from pydantic import BaseModel, Field

__all__ = ["MonitoringSettings"]


class MonitoringSettings(BaseModel):
    """Health and monitoring."""

    health_interval_seconds: float = Field(15.0, ge=1, le=3600, description="How often beat has the health checked.")
