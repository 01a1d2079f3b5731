"""Health: is everything there that executions need, how fast is it, and what to do where it is not well.

A check is never the load itself and never hangs: its parts run side by side, each on its own connection, what does not
answer in time is reported as such, and a report is kept for some seconds. So it answers with Postgres, Redis or both
away or standing still.

A producer sees Postgres, Redis, what the workers tell about themselves, and its own language. What only a worker can
see, the models, comes from the last check that beat had a worker make (:mod:`workers.observe.health_check`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from importlib.metadata import version
from typing import Any

__all__ = ["MODEL", "Component", "Condition", "Found", "Group", "HealthCheck", "HealthReport", "Round"]

log = logging.getLogger("dspex")

#: A whole check takes no longer, whatever hangs.
CHECK_SECONDS = 3.0
#: A report is given again for so long.
KEPT_SECONDS = 2.0
#: What the names of components begin with that stand for a model.
MODEL = "model "


class Condition(StrEnum):
    """How a component is. ``unknown``: what would tell does not answer."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Component:
    """One part: its condition and since when, how long asking took, what was found, and what to do about it."""

    status: Condition
    latency_ms: float
    since: datetime
    details: Mapping[str, Any]
    remedy: str = ""

    def as_dict(self) -> dict[str, Any]:
        """JSON-friendly."""
        return {
            "status": str(self.status),
            "latency_ms": self.latency_ms,
            "since": self.since.isoformat(),
            "details": dict(self.details),
            "remedy": self.remedy,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Component:
        since = datetime.fromisoformat(data["since"])
        return cls(Condition(data["status"]), data["latency_ms"], since, data["details"], data["remedy"])


@dataclass(frozen=True, slots=True)
class HealthReport:
    """A check's result.

    ``overall`` is the worst of the components', but degraded for a model that is unhealthy and where one is unknown.
    ``performance``: averages in milliseconds (``signature_compilation_ms type_validation_ms adapter_call_ms
    execution_ms``; None without any to measure). ``resources``: ``process_count memory_bytes cpu`` of the workers,
    ``cpu`` in cores.
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
        """Those of Postgres and Redis that do not answer."""
        known = self.components
        return [name for name in ("postgres", "redis") if name in known and known[name].status is Condition.UNHEALTHY]

    def as_dict(self) -> dict[str, Any]:
        """JSON-friendly."""
        return {
            "overall": str(self.overall),
            "checked_at": self.checked_at.isoformat(),
            "version": self.version,
            "components": {name: component.as_dict() for name, component in self.components.items()},
            "performance": dict(self.performance),
            "resources": dict(self.resources),
        }


@dataclass(frozen=True, slots=True)
class Found:
    """What a check found; ``remedy`` says what to do when it is not well."""

    status: Condition
    details: Mapping[str, Any] = field(default_factory=dict)
    remedy: str = ""


class Round:
    """One check under way: its answers as they come, and facts that are about no component."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.answers: dict[str, tuple[Found, float]] = {}
        self.facts: dict[str, Any] = {}

    def ask(self, name: str, check: Callable[[], Found]) -> bool:
        """Ask a component. False when it is out of reach: then ask nothing more that needs it."""
        began = time.perf_counter()
        try:
            found = check()
        except Exception as error:  # a report tells of a check that is broken, like of anything else
            log.exception("the health check of %s failed", name)
            found = Found(Condition.UNHEALTHY, {"error": f"its check failed with {type(error).__name__}: see the log"})
        self.answers[name] = found, round((time.perf_counter() - began) * 1000, 3)
        return found.status is not Condition.UNHEALTHY


@dataclass(frozen=True, slots=True)
class Group:
    """Components that are asked one after the other. Without the first the others cannot be told."""

    components: Sequence[str]
    run: Callable[[Round], None]
    remedy: str

    @property
    def first(self) -> str:
        return self.components[0]


class HealthCheck:
    """Checks groups of components. Safe to share between threads: those that ask at once share one check.

    What has not answered after ``seconds`` is reported so. While it hangs it is not asked again.
    """

    def __init__(self, groups: Sequence[Group], *, seconds: float = CHECK_SECONDS) -> None:
        self._groups = groups
        self._seconds = seconds
        self._checking = threading.Lock()
        self._report: HealthReport | None = None
        self._made_at = 0.0
        #: The round of each group that has not ended: another begins only then.
        self._under_way: dict[str, tuple[threading.Thread, Round]] = {}

    def report(self, *, kept_seconds: float = KEPT_SECONDS) -> HealthReport:
        """The report, not older than ``kept_seconds``; it takes ``seconds`` at most."""
        with self._checking:
            if self._report is None or time.monotonic() - self._made_at > kept_seconds:
                self._report = self._check()
                self._made_at = time.monotonic()
            return self._report

    def _check(self) -> HealthReport:
        began = time.monotonic()
        rounds = [(group, *self._begin(group)) for group in self._groups]
        components: dict[str, Component] = {}
        facts: dict[str, Any] = {}
        for group, thread, round in rounds:
            thread.join(max(began + self._seconds - time.monotonic(), 0))
            if not thread.is_alive():
                del self._under_way[group.first]
            facts |= dict(round.facts)
            answers = dict(round.answers)
            now = time.monotonic()
            for name in (*group.components, *sorted(answers.keys() - set(group.components))):
                found, latency_ms = answers.get(name) or (_missing(group, name, round, answers, now), _ms(round, now))
                components[name] = Component(found.status, latency_ms, datetime.now(UTC), found.details, found.remedy)
        earlier = self._earlier(facts)
        told: dict[str, Component] = facts.get("told", {})
        components |= {name: component for name, component in told.items() if name not in components}
        components = {name: _since(component, earlier.get(name)) for name, component in components.items()}
        return HealthReport(
            overall=_worst(components),
            components=components,
            performance={**facts.get("own_performance", {}), **facts.get("performance", {})},
            resources=facts.get("resources", {}),
            checked_at=datetime.now(UTC),
            version=version("dspex"),
        )

    def _begin(self, group: Group) -> tuple[threading.Thread, Round]:
        known = self._under_way.get(group.first)
        if known is None or not known[0].is_alive():
            round = Round()
            # A daemon: what hangs must not keep the process.
            thread = threading.Thread(target=group.run, args=(round,), name=f"health-{group.first}", daemon=True)
            self._under_way[group.first] = thread, round
            thread.start()
        return self._under_way[group.first]

    def _earlier(self, facts: Mapping[str, Any]) -> Mapping[str, Component]:
        """What was known before: the stored history goes back further than this process does."""
        if (stored := facts.get("stored")) is not None:
            return {**(self._report.components if self._report else {}), **stored}
        return self._report.components if self._report else {}


def _missing(group: Group, name: str, round: Round, answers: Mapping[str, tuple[Found, float]], now: float) -> Found:
    """What is said of a component that gave no answer."""
    first = answers.get(group.first)
    if name == group.first:
        why = f"no answer within {now - round.began:.1f} s"
        return Found(Condition.UNHEALTHY, {"error": why}, group.remedy)
    if first is None or first[0].status is Condition.UNHEALTHY:
        return Found(Condition.UNKNOWN, {"error": f"cannot be told without {group.first}"}, f"see {group.first}")
    return Found(Condition.DEGRADED, {"error": f"no answer within {now - round.began:.1f} s"}, group.remedy)


def _ms(round: Round, now: float) -> float:
    return _rounded((now - round.began) * 1000)


def _rounded(ms: float) -> float:
    return int(ms * 1000) / 1000


def _since(component: Component, earlier: Component | None) -> Component:
    """The component, in its condition since it came into it."""
    if earlier is None or earlier.status is not component.status:
        return component
    return replace(component, since=min(earlier.since, component.since))


def _worst(components: Mapping[str, Component]) -> Condition:
    """A model that is away keeps its programs from working, and not the deployment."""
    if any(c.status is Condition.UNHEALTHY and not name.startswith(MODEL) for name, c in components.items()):
        return Condition.UNHEALTHY
    well = all(component.status is Condition.HEALTHY for component in components.values())
    return Condition.HEALTHY if well else Condition.DEGRADED
