"""The health report: components, their conditions, and how to fix what is not healthy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

__all__ = ["MODEL", "Component", "Condition", "HealthReport"]

#: The names of components that stand for a model begin with it.
MODEL = "model "


class Condition(StrEnum):
    """The condition of a component. ``unknown``: the component could not be checked."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Component:
    """A component: its condition, since when, the duration of the check, details, and how to fix a problem."""

    status: Condition
    latency_ms: float
    since: datetime
    details: Mapping[str, Any]
    fix: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The component as JSON-friendly data."""
        return {
            "status": str(self.status),
            "latency_ms": self.latency_ms,
            "since": self.since.isoformat(),
            "details": dict(self.details),
            "fix": self.fix,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Component:
        """The component that :meth:`as_dict` returned."""
        since = datetime.fromisoformat(data["since"])
        return cls(Condition(data["status"]), data["latency_ms"], since, data["details"], data.get("fix", ""))


@dataclass(frozen=True, slots=True)
class HealthReport:
    """The result of a health check.

    ``overall`` is the worst condition of the components, except that an unhealthy model or an unknown component makes
    it degraded. ``performance``: averages in milliseconds (``signature_compilation_ms type_validation_ms
    adapter_call_ms execution_ms``; None without data). ``resources``: ``process_count memory_bytes cpu`` of the
    workers, ``cpu`` in cores.
    """

    overall: Condition
    components: Mapping[str, Component]
    performance: Mapping[str, float | None]
    resources: Mapping[str, float]
    checked_at: datetime
    version: str

    @property
    def healthy(self) -> bool:
        return self.overall is Condition.HEALTHY

    @property
    def unreachable(self) -> list[str]:
        """The backends that do not answer: ``postgres``, ``redis``, both or none."""
        known = self.components
        return [name for name in ("postgres", "redis") if name in known and known[name].status is Condition.UNHEALTHY]

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON-friendly data."""
        return {
            "overall": str(self.overall),
            "checked_at": self.checked_at.isoformat(),
            "version": self.version,
            "components": {name: component.as_dict() for name, component in self.components.items()},
            "performance": dict(self.performance),
            "resources": dict(self.resources),
        }
