"""The doctor: verdicts, the score, checks that hang or fail, and the text of each check."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest
import redis
from rich.console import Console

from dspex.cli.main import COMMANDS
from dspex.cli.operate.doctor_command import show_report
from dspex.errors import ExecutionTimedOut
from dspex.operations.doctor import GROUPS, Check, CheckGroup, CheckOutcome, CheckVerdict, Finding, GroupReport, Report
from dspex.operations.doctor.check import met
from dspex.operations.doctor.deployment import Deployment, is_local
from dspex.operations.doctor.doctor_report import worst
from dspex.operations.doctor.examination import run_check
from dspex.operations.doctor.groups import Wave
from dspex.operations.doctor.operations.clock_checks import compare_clocks
from dspex.operations.doctor.operations.security_checks import Access, weakness

ROOT = Path(__file__).parents[2]
HERE = cast("Deployment", SimpleNamespace(missing={}))


def a_check(find: Callable[[Deployment], Finding], seconds: float = 5) -> Check:
    return Check("group.name", "A title", "It means", "fix it", (), seconds, find)


def a_report(*verdicts: CheckVerdict) -> Report:
    check = a_check(lambda _: met("well"))
    group = CheckGroup("group", "Group", (check,), True, Wave.LOOK)
    checks = [CheckOutcome(check, verdict, "evidence", "", 1.0, {}) for verdict in verdicts]
    return Report(datetime.now(UTC), "0.1.0", "test", 1.0, False, [GroupReport(group, checks)])


@pytest.mark.parametrize(
    ("verdicts", "score", "ready", "requirements"),
    [
        ((CheckVerdict.MET, CheckVerdict.MET), 100, True, 1),
        ((CheckVerdict.MET, CheckVerdict.NOT_APPLICABLE), 100, True, 1),
        ((CheckVerdict.MET, CheckVerdict.WARNING), 75, True, 1),
        ((CheckVerdict.MET, CheckVerdict.UNKNOWN), 50, False, 0),
        ((CheckVerdict.NOT_MET,), 0, False, 0),
        ((CheckVerdict.NOT_APPLICABLE,), 0, True, 0),
        ((*[CheckVerdict.MET] * 999, CheckVerdict.WARNING), 99, True, 1),
    ],
)
def test_the_score_counts_what_applies(
    verdicts: tuple[CheckVerdict, ...], score: int, ready: bool, requirements: int
) -> None:
    report = a_report(*verdicts)
    assert (report.score, report.ready, report.requirements_met) == (score, ready, requirements)
    assert report.as_data()["counts"]["met"] == verdicts.count(CheckVerdict.MET)


def shown(report: Report, *, everything: bool) -> str:
    console = Console(width=100, file=io.StringIO(), record=True)
    show_report(console, report, everything=everything)
    return console.export_text()


def a_finding(name: str, verdict: CheckVerdict, evidence: str, fix: str = "") -> CheckOutcome:
    check = replace(a_check(lambda _: met("")), name=name, title=f"Title of {name}")
    return CheckOutcome(check, verdict, evidence, fix, 1.0, {})


def test_what_needs_attention_is_shown_and_on_request_the_rest() -> None:
    checks = [
        a_finding("g.well", CheckVerdict.MET, "all is well"),
        a_finding("g.absent", CheckVerdict.NOT_APPLICABLE, "none is needed"),
        a_finding("g.old", CheckVerdict.WARNING, "rather old", "renew it"),
        a_finding("g.broken", CheckVerdict.NOT_MET, "it broke", "repair it"),
        *(a_finding(f"g.{n}", CheckVerdict.UNKNOWN, "no worker is alive", "start a worker") for n in range(3)),
    ]
    group = CheckGroup("g", "Group", tuple(each.check for each in checks), True, Wave.LOOK)
    report = Report(datetime.now(UTC), "0.1.0", "test", 1.0, False, [GroupReport(group, checks)])
    brief, whole = shown(report, everything=False), shown(report, everything=True)
    assert "all is well" not in brief
    assert "none is needed" not in brief
    assert brief.index("it broke") < brief.index("no worker is alive") < brief.index("rather old"), "the worst first"
    assert brief.count("start a worker") == 1, "checks with one reason and one fix are shown together"
    assert "3 checks  g.0, g.1, g.2" in brief
    assert "1 met, 1 in need of attention, 1 not met, 3 unknown, 1 not applicable" in " ".join(brief.split())
    assert "all is well" in whole
    assert "none is needed" in whole


def test_a_requirement_that_does_not_apply_is_not_counted() -> None:
    report = a_report(CheckVerdict.NOT_APPLICABLE)
    assert (report.requirements, report.requirements_met, report.attention) == ([], 0, [])


def test_a_group_is_what_its_worst_check_is() -> None:
    assert worst([CheckVerdict.NOT_APPLICABLE, CheckVerdict.MET]) is CheckVerdict.MET
    assert worst([CheckVerdict.MET, CheckVerdict.WARNING, CheckVerdict.UNKNOWN]) is CheckVerdict.UNKNOWN
    assert worst([CheckVerdict.UNKNOWN, CheckVerdict.NOT_MET]) is CheckVerdict.NOT_MET
    assert worst([]) is CheckVerdict.NOT_APPLICABLE


def test_a_check_that_hangs_is_left_to_itself() -> None:
    released = threading.Event()

    def hang(_: Deployment) -> Finding:
        released.wait()
        return met("too late")

    found = run_check(a_check(hang, seconds=0.05), HERE)
    released.set()
    assert (found.verdict, found.evidence, found.fix) == (CheckVerdict.UNKNOWN, "timed out after 0.05 s", "fix it")


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (ZeroDivisionError("division by zero"), CheckVerdict.NOT_MET),
        (psycopg.errors.InsufficientPrivilege("permission denied"), CheckVerdict.UNKNOWN),
        (psycopg.errors.QueryCanceled("statement timeout"), CheckVerdict.UNKNOWN),
        (redis.exceptions.NoPermissionError("no permissions"), CheckVerdict.UNKNOWN),
        (psycopg.OperationalError("too many connections for role"), CheckVerdict.UNKNOWN),
        (psycopg.errors.AdminShutdown("terminating connection"), CheckVerdict.UNKNOWN),
        (redis.exceptions.ConnectionError("connection refused"), CheckVerdict.UNKNOWN),
        (ExecutionTimedOut("execution x is queued after 20 s"), CheckVerdict.NOT_MET),
    ],
)
def test_a_check_that_breaks_says_how(error: Exception, verdict: CheckVerdict) -> None:
    def fail(_: Deployment) -> Finding:
        raise error

    found = run_check(a_check(fail), HERE)
    assert found.verdict is verdict
    assert str(error) in found.evidence
    by_connection = isinstance(error, psycopg.OperationalError | redis.ConnectionError) and not isinstance(
        error, psycopg.errors.QueryCanceled
    )
    assert (found.fix == "fix it") is not (by_connection or isinstance(error, ExecutionTimedOut))


@pytest.mark.parametrize(
    ("apart", "verdict"), [(0, CheckVerdict.MET), (5, CheckVerdict.WARNING), (-20, CheckVerdict.NOT_MET)]
)
def test_clocks_arecompare_clocks(apart: float, verdict: CheckVerdict) -> None:
    assert compare_clocks(lambda: 1000.0, lambda: 1000.0 + apart).verdict is verdict


@pytest.mark.parametrize(
    ("access", "fault"),
    [
        (Access("u", "postgres"), "common password"),
        (Access("someone", "someone"), "common password"),
        (Access("", ""), "no password"),
        (Access("", "", otherwise=True), None),
        (Access("", "short1"), "less than"),
        (Access("", "aLongOneThatNobodyTries"), None),
    ],
)
def test_weak_passwords(access: Access, fault: str | None) -> None:
    fault_found = weakness(access)
    assert fault_found is None if fault is None else fault in str(fault_found)


def test_local_addresses() -> None:
    assert is_local("redis://127.0.0.1:1/0")
    assert is_local("postgresql:///d?host=/run/postgresql")
    assert not is_local("redis://redis.internal/0")


def test_every_check_has_a_name_of_its_own_a_meaning_and_a_fix() -> None:
    checks: list[Any] = [check for group in GROUPS for check in group.checks]
    assert len({check.name for check in checks}) == len(checks)
    assert all(check.meaning.endswith(".") and not check.fix.endswith(".") for check in checks)
    assert all(group.checks for group in GROUPS)
    assert sum(group.requirement for group in GROUPS) == 8


def test_what_a_fix_names_exists() -> None:
    texts = [f"{check.fix} {check.meaning}" for group in GROUPS for check in group.checks]
    pages = {page for text in texts for page in re.findall(r"docs/[\w/.-]+\.md", text)}
    commands = {name for text in texts for name in re.findall(r"`dspex ([a-z]+)", text)}
    assert {page for page in pages if not (ROOT / page).is_file()} == set()
    assert commands - set(COMMANDS) == set()
