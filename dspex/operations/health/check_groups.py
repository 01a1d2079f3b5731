"""The health check: groups of components that are checked side by side.

A check adds no load and never hangs. Each group runs on its own connection, a component that does not answer in time
is reported as such, and a report is reused for some seconds. So a check works with Postgres, Redis or both down or
frozen.

A producer can check Postgres, Redis, the records of the workers, and its own process. Only a worker can check the
models; their components come from the last check that beat scheduled (:mod:`workers.observe.health_check`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Any

from dspex.operations.health.conditions import MODEL, Component, Condition, HealthReport

__all__ = ["CHECK_SECONDS", "CheckResult", "CheckRound", "ComponentGroup", "HealthCheck"]

log = logging.getLogger("dspex")

#: The longest time of a whole check.
CHECK_SECONDS = 3.0
#: How long a report is reused.
KEPT_SECONDS = 2.0
#: Checks that are further apart do not show what was between them.
GAP_SECONDS = 60.0
EARLIEST = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of checking one component; ``fix`` is how to fix a problem.

    ``up_seconds`` is how long ago the component started, where that is known: it has been in its condition for no
    longer.
    """

    status: Condition
    details: Mapping[str, Any] = field(default_factory=dict)
    fix: str = ""
    up_seconds: float | None = None


class CheckRound:
    """A running check of one group: results by component, and facts that belong to no component."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.results: dict[str, tuple[CheckResult, float]] = {}
        self.facts: dict[str, Any] = {}

    def check(self, name: str, work: Callable[[], CheckResult]) -> bool:
        """Check a component. Returns False if it is unhealthy: components that depend on it cannot be checked then."""
        began = time.perf_counter()
        try:
            found = work()
        except Exception as error:  # a broken check is reported like any other problem
            log.exception("the health check of %s failed", name)
            found = CheckResult(
                Condition.UNHEALTHY, {"error": f"its check failed with {type(error).__name__}: see the log"}
            )
        self.results[name] = found, round((time.perf_counter() - began) * 1000, 3)
        return found.status is not Condition.UNHEALTHY


@dataclass(frozen=True, slots=True)
class ComponentGroup:
    """Components that are checked one after another. The others depend on the first."""

    components: Sequence[str]
    run: Callable[[CheckRound], None]
    fix: str

    @property
    def first(self) -> str:
        return self.components[0]


class HealthCheck:
    """Checks groups of components. Safe to share between threads, which then share one check.

    A component that has not answered after ``seconds`` is reported as such, and is not checked again while it hangs.
    A condition is taken to have lasted between two checks that are at most ``gap_seconds`` apart.
    """

    def __init__(
        self, groups: Sequence[ComponentGroup], *, seconds: float = CHECK_SECONDS, gap_seconds: float = GAP_SECONDS
    ) -> None:
        self._groups = groups
        self._seconds = seconds
        self._gap_seconds = gap_seconds
        self._checking = threading.Lock()
        self._report: HealthReport | None = None
        self._made_at = 0.0
        #: The unfinished round of each group. The next one begins when it has ended.
        self._under_way: dict[str, tuple[threading.Thread, CheckRound]] = {}

    def report(self, *, kept_seconds: float = KEPT_SECONDS) -> HealthReport:
        """A report that is not older than ``kept_seconds``. Takes at most ``seconds``."""
        with self._checking:
            if self._report is None or time.monotonic() - self._made_at > kept_seconds:
                self._report = self._check()
                self._made_at = time.monotonic()
            return self._report

    def _check(self) -> HealthReport:
        began = time.monotonic()
        rounds = [(group, *self._begin(group)) for group in self._groups]
        components: dict[str, Component] = {}
        began_at: dict[str, datetime] = {}
        facts: dict[str, Any] = {}
        for group, thread, round in rounds:
            thread.join(max(began + self._seconds - time.monotonic(), 0))
            if not thread.is_alive():
                del self._under_way[group.first]
            facts |= dict(round.facts)
            results = dict(round.results)
            now = time.monotonic()
            for name in (*group.components, *sorted(results.keys() - set(group.components))):
                found, latency_ms = results.get(name) or (_missing(group, name, round, results, now), _ms(round, now))
                components[name] = Component(found.status, latency_ms, datetime.now(UTC), found.details, found.fix)
                began_at[name] = _began_at(found, results.get(group.first))
        earlier = self._earlier(facts)
        reported: dict[str, Component] = facts.get("seen_by_workers", {})
        components |= {name: component for name, component in reported.items() if name not in components}
        components = {
            name: _since(component, earlier.get(name), began_at.get(name, EARLIEST))
            for name, component in components.items()
        }
        return HealthReport(
            overall=_worst(components),
            components=components,
            performance={**facts.get("own_performance", {}), **facts.get("performance", {})},
            resources=facts.get("resources", {}),
            checked_at=datetime.now(UTC),
            version=version("dspex"),
        )

    def _begin(self, group: ComponentGroup) -> tuple[threading.Thread, CheckRound]:
        known = self._under_way.get(group.first)
        if known is None or not known[0].is_alive():
            round = CheckRound()
            # A daemon: a hanging check must not keep the process alive.
            thread = threading.Thread(target=group.run, args=(round,), name=f"health-{group.first}", daemon=True)
            self._under_way[group.first] = thread, round
            thread.start()
        return self._under_way[group.first]

    def _earlier(self, facts: Mapping[str, Any]) -> Mapping[str, Component]:
        """The components of the report before. The stored history goes back further than this process."""
        recent = self._report is not None and time.monotonic() - self._made_at <= self._gap_seconds
        own = self._report.components if self._report is not None and recent else {}
        return {**own, **facts.get("stored", {})}


def _missing(
    group: ComponentGroup, name: str, round: CheckRound, results: Mapping[str, tuple[CheckResult, float]], now: float
) -> CheckResult:
    """The result of a component that gave no answer."""
    first = results.get(group.first)
    if name == group.first:
        why = f"no answer within {now - round.began:.1f} s"
        return CheckResult(Condition.UNHEALTHY, {"error": why}, group.fix)
    if first is None or first[0].status is Condition.UNHEALTHY:
        return CheckResult(
            Condition.UNKNOWN, {"error": f"cannot be checked without {group.first}"}, f"see {group.first}"
        )
    return CheckResult(Condition.DEGRADED, {"error": f"no answer within {now - round.began:.1f} s"}, group.fix)


def _ms(round: CheckRound, now: float) -> float:
    return _rounded((now - round.began) * 1000)


def _rounded(ms: float) -> float:
    return int(ms * 1000) / 1000


def _began_at(found: CheckResult, first: tuple[CheckResult, float] | None) -> datetime:
    """When the component, or the first of its group, started; components of a group depend on the first."""
    known = (found.up_seconds, first[0].up_seconds if first else None)
    up_seconds = min((seconds for seconds in known if seconds is not None), default=None)
    return EARLIEST if up_seconds is None else datetime.now(UTC) - timedelta(seconds=up_seconds)


def _since(component: Component, earlier: Component | None, began_at: datetime) -> Component:
    """The component, with the time since when it has been in its condition: not before it started."""
    if earlier is None or earlier.status is not component.status:
        return component
    return replace(component, since=min(max(earlier.since, began_at), component.since))


def _worst(components: Mapping[str, Component]) -> Condition:
    """The overall condition. An unhealthy model affects its programs only, so it makes the deployment degraded."""
    if any(c.status is Condition.UNHEALTHY and not name.startswith(MODEL) for name, c in components.items()):
        return Condition.UNHEALTHY
    well = all(component.status is Condition.HEALTHY for component in components.values())
    return Condition.HEALTHY if well else Condition.DEGRADED
