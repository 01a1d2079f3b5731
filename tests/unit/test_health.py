"""A health report: made within its time whatever hangs, asked once for many, and told since when."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from dspex.operations.health.check_groups import CheckResult, CheckRound, ComponentGroup, HealthCheck
from dspex.operations.health.conditions import MODEL, Condition
from dspex.operations.health.language_checks import language_group
from tests.waiting import wait_for

HEALTHY, DEGRADED, UNHEALTHY, UNKNOWN = Condition


def group(*asks: tuple[str, Callable[[], CheckResult]]) -> ComponentGroup:
    def run(round: CheckRound) -> None:
        for name, ask in asks:
            if not round.check(name, ask):
                return

    return ComponentGroup([name for name, _ in asks], run, "fix it")


def well() -> CheckResult:
    return CheckResult(HEALTHY)


def bad() -> CheckResult:
    return CheckResult(UNHEALTHY, {"error": "gone"}, "start it")


def test_a_check_that_hangs_is_named_and_the_others_answer() -> None:
    release, asked = threading.Event(), []

    def hangs() -> CheckResult:
        asked.append("again")
        release.wait(60)
        return well()

    check = HealthCheck([group(("first", hangs), ("after", well)), group(("other", well))], seconds=1)
    report = check.report(kept_seconds=0)
    assert {name: component.status for name, component in report.components.items()} == {
        "first": UNHEALTHY, "after": UNKNOWN, "other": HEALTHY,
    }  # fmt: skip
    assert "no answer within" in report.components["first"].details["error"]
    assert report.components["first"].fix == "fix it"
    assert "cannot be checked without first" in report.components["after"].details["error"]
    assert report.overall is UNHEALTHY

    check.report(kept_seconds=0)
    assert asked == ["again"], "while it hangs it is not asked once more"
    release.set()
    wait_for(lambda: check.report(kept_seconds=0).healthy, "it to be asked again, and to answer")


def test_one_that_is_slow_does_not_make_its_backend_unhealthy() -> None:
    release = threading.Event()
    check = HealthCheck(
        [group(("first", well), ("slow", lambda: CheckResult(HEALTHY) if release.wait(60) else bad()))], seconds=0.2
    )
    report = check.report()
    release.set()
    assert report.components["first"].status is HEALTHY
    assert report.components["slow"].status is DEGRADED
    assert report.overall is DEGRADED


def test_who_asks_at_once_shares_one_check_and_its_report_is_kept() -> None:
    asked, gate = [], threading.Barrier(8)

    def counted() -> CheckResult:
        asked.append(1)
        return well()

    check = HealthCheck([group(("one", counted))], seconds=60)

    def ask(_: int) -> Condition:
        gate.wait(60)
        return check.report(kept_seconds=3600).overall

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(8))) == {HEALTHY}
    assert len(asked) == 1


def test_a_component_is_in_its_condition_since_it_came_into_it() -> None:
    answers = iter([well(), well(), bad(), bad(), well()])
    check = HealthCheck([group(("one", lambda: next(answers)))], seconds=60)
    first, second, third, fourth, fifth = (check.report(kept_seconds=0).components["one"] for _ in range(5))
    assert second.since == first.since < third.since == fourth.since < fifth.since
    assert fourth.fix == "start it"


def test_a_condition_does_not_last_over_a_time_without_checks() -> None:
    answers = iter([well(), well(), well()])
    check = HealthCheck([group(("one", lambda: next(answers)))], seconds=60, gap_seconds=0)
    first, second = (check.report(kept_seconds=0).components["one"] for _ in range(2))
    assert second.since > first.since, "no check shows what was between the two"


def test_a_component_is_in_its_condition_no_longer_than_it_has_run() -> None:
    """Also what depends on it: nothing was healthy in Postgres before Postgres was started again."""
    up = iter([3600.0, 0.0])
    check = HealthCheck(
        [
            group(("postgres", lambda: CheckResult(HEALTHY, up_seconds=next(up))), ("queue", well)),
            group(("redis", well)),
        ],
        seconds=60,
    )
    first = check.report(kept_seconds=0).components
    second = check.report(kept_seconds=0).components
    assert second["postgres"].since > first["postgres"].since
    assert second["queue"].since > first["queue"].since
    assert second["redis"].since == first["redis"].since


def test_a_broken_check_is_reported_without_the_values_it_quotes() -> None:
    def broken() -> CheckResult:
        raise ValueError("a secret")

    report = HealthCheck([group(("one", broken))], seconds=60).report()
    assert report.components["one"].status is UNHEALTHY
    assert "ValueError" in report.components["one"].details["error"]
    assert "secret" not in str(report.as_dict())


def test_a_model_that_is_away_does_not_make_the_deployment_unhealthy() -> None:
    report = HealthCheck([group((MODEL + "openai/x", bad))], seconds=60).report()
    assert report.overall is DEGRADED
    assert not report.unreachable


def test_the_language_is_really_tried() -> None:
    report = HealthCheck([language_group()], seconds=60).report()
    assert report.healthy, report.as_dict()
    assert set(report.components) == {"signature_system", "type_system", "adapter_registry"}
    assert report.components["type_system"].details["types"] == 10
    assert report.performance.keys() == {"signature_compilation_ms", "type_validation_ms"}
