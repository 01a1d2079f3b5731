"""What is above its threshold."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from dspex.operations.alerts.alert_rules import ALERT_RULES, Breach, breaches
from dspex.settings import Settings
from dspex.store.operations.figures import Figures, ProgramFigures, WorkerMemory
from dspex.store.operations.health import Backlog

WELL: dict[str, Any] = {"ended": 100, "failed": 0, "poisoned": 0, "p95_seconds": 1.0, "commonest_error": None,
                        "cost_per_hour_usd": 0.0}  # fmt: skip


def found(thresholds: dict[str, Any] | None = None, **figures: Any) -> list[Breach]:
    settings = Settings.load(alert_thresholds=thresholds or {}, health_interval_seconds=15)
    nothing: dict[str, Any] = {"programs": [], "backlogs": [], "memory": [], "dead": [], "health": None}
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    return breaches(Figures(at=moment, window_seconds=300.0, **{**nothing, **figures}), settings)


def program(**changed: Any) -> ProgramFigures:
    return ProgramFigures(**{"program": "qa", **WELL, **changed})


def health(age_seconds: float, **components: str) -> dict[str, Any]:
    components_data = {name: {"status": status, "fix": "fix it"} for name, status in components.items()}
    return {"age_seconds": age_seconds, "report": {"components": components_data}}


@pytest.mark.parametrize(
    ("figures", "rule", "subject", "summary"),
    [
        (
            {"programs": [program(p95_seconds=31.0)]}, "execution_time", "qa",
            "one in twenty of 100 executions ran for 31.0 s or longer in 5 min; the threshold is 30 s",
        ),
        (
            {"programs": [program(failed=6, commonest_error="rate_limited")]}, "error_rate", "qa",
            "6.0% of 100 executions failed in 5 min, most often with rate_limited; the threshold is 5.0%",
        ),
        (
            {"programs": [program(ended=1, failed=1, poisoned=1)]}, "poisoned_executions", "qa",
            "1 execution killed every worker that tried, in 5 min",
        ),
        (
            {"backlogs": [Backlog("qa", 1200, 10, 4000.0, 0.0, paused=False, limited=False)]}, "queue_age", "qa",
            "1,200 executions are due, and the oldest has waited 67 min; the threshold is 5 min",
        ),
        (
            {"memory": [WorkerMemory("h", 7, 1200.0)]}, "worker_memory", "h:7",
            "the worker uses 1,200 MiB; the threshold is 1,000 MiB",
        ),
        (
            {"dead": ["h:1", "h:2", "h:3", "h:4"]}, "dead_workers", "",
            "4 workers died in 5 min: h:1, h:2, h:3 …",
        ),
        ({"health": health(5, redis="unhealthy", queue="degraded")}, "unhealthy", "redis", "fix it"),
        (
            {"health": health(500, redis="unhealthy")}, "unhealthy", "health checks",
            "the last health check was 8 min ago: are beat and a worker running?",
        ),
    ],
)  # fmt: skip
def test_each_rule(figures: dict[str, Any], rule: str, subject: str, summary: str) -> None:
    (breach,) = found(**figures)
    assert (breach.rule, breach.subject, breach.summary) == (rule, subject, summary)
    assert breach.value > breach.threshold
    assert ALERT_RULES[rule].fix


def test_what_is_at_its_threshold_or_too_little_to_judge_is_well() -> None:
    assert found(programs=[program(failed=5), program(p95_seconds=30.0)], health=health(5, redis="healthy")) == []
    assert found(programs=[program(ended=4, failed=4, p95_seconds=99.0)]) == [], "four executions say little"


def test_what_waits_because_that_was_asked_for_is_well() -> None:
    waiting: dict[str, Any] = {"due": 9, "dispatched": 0, "oldest_wait_seconds": 4000.0,
                               "undispatched_wait_seconds": 4000.0}  # fmt: skip
    paused = Backlog("qa", **waiting, paused=True, limited=False)
    limited = Backlog("qa", **waiting, paused=False, limited=True)
    assert found(backlogs=[paused, limited]) == []
    own = {"programs": {"qa": {"queue_age_seconds": 3600}}}
    assert [breach.threshold for breach in found(own, backlogs=[limited])] == [3600]


def test_each_threshold_can_be_off() -> None:
    off = dict.fromkeys(
        ("execution_time_seconds", "error_rate", "queue_age_seconds", "worker_memory_mb", "dead_workers",
         "poisoned_executions"), "off",
    ) | {"unhealthy": False}  # fmt: skip
    everything: dict[str, Any] = {
        "programs": [program(failed=99, p95_seconds=99.0, poisoned=9)],
        "backlogs": [Backlog("qa", 9, 0, 4000.0, 0.0, paused=False, limited=False)],
        "memory": [WorkerMemory("h", 7, 9999.0)],
        "dead": ["h:1"],
        "health": health(5, redis="unhealthy"),
    }
    assert found(off, **everything) == []
    assert len(found(**everything)) == 7


def test_cost_is_the_deployments_and_that_of_programs_with_a_threshold_of_their_own() -> None:
    programs = [program(cost_per_hour_usd=8.0), program(program="dear", cost_per_hour_usd=4.0)]
    assert found(programs=programs) == [], "unless asked for"
    limits = {"cost_per_hour_usd": 10, "programs": {"dear": {"cost_per_hour_usd": 3}, "qa": {"error_rate": 1}}}
    whole, dear = found(limits, programs=programs)
    assert (whole.subject, whole.summary) == ("", "$12.00 per hour, most of it by qa; the threshold is $10.00")
    assert (dear.subject, dear.summary) == ("dear", "$4.00 per hour; the threshold is $3.00")
