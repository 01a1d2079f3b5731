"""The doctor's own bookkeeping: verdicts, the score, checks that hang or break, and what is said of each."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest
import redis

from dspex.cli.main import COMMANDS
from dspex.operations.doctor import GROUPS, Check, Finding, Group, GroupReport, Report, Verdict
from dspex.operations.doctor.check import met
from dspex.operations.doctor.deployment import Deployment, is_local
from dspex.operations.doctor.doctor_report import Checked, worst
from dspex.operations.doctor.examination import _checked
from dspex.operations.doctor.groups import Wave
from dspex.operations.doctor.operations.clock_checks import _compared
from dspex.operations.doctor.operations.security_checks import _weakness

ROOT = Path(__file__).parents[2]
HERE = cast("Deployment", SimpleNamespace(missing={}))


def a_check(find: Callable[[Deployment], Finding], seconds: float = 5) -> Check:
    return Check("group.name", "A title", "It means", "mend it", (), seconds, find)


def a_report(*verdicts: Verdict) -> Report:
    check = a_check(lambda _: met("well"))
    group = Group("group", "Group", (check,), True, Wave.LOOK)
    checks = [Checked(check, verdict, "evidence", "", 1.0, {}) for verdict in verdicts]
    return Report(datetime.now(UTC), "0.1.0", "test", 1.0, False, [GroupReport(group, checks)])


@pytest.mark.parametrize(
    ("verdicts", "score", "ready", "requirements"),
    [
        ((Verdict.MET, Verdict.MET), 100, True, 1),
        ((Verdict.MET, Verdict.SKIPPED), 100, True, 1),
        ((Verdict.MET, Verdict.WARNING), 75, True, 1),
        ((Verdict.MET, Verdict.UNKNOWN), 50, False, 0),
        ((Verdict.NOT_MET,), 0, False, 0),
        ((Verdict.SKIPPED,), 0, True, 0),
        ((*[Verdict.MET] * 999, Verdict.WARNING), 99, True, 1),
    ],
)
def test_the_score_counts_what_applies(
    verdicts: tuple[Verdict, ...], score: int, ready: bool, requirements: int
) -> None:
    report = a_report(*verdicts)
    assert (report.score, report.ready, report.requirements_met) == (score, ready, requirements)
    assert report.as_data()["counts"]["met"] == verdicts.count(Verdict.MET)


def test_a_group_is_what_its_worst_check_is() -> None:
    assert worst([Verdict.SKIPPED, Verdict.MET]) is Verdict.MET
    assert worst([Verdict.MET, Verdict.WARNING, Verdict.UNKNOWN]) is Verdict.UNKNOWN
    assert worst([Verdict.UNKNOWN, Verdict.NOT_MET]) is Verdict.NOT_MET
    assert worst([]) is Verdict.SKIPPED


def test_a_check_that_hangs_is_left_to_itself() -> None:
    released = threading.Event()

    def hang(_: Deployment) -> Finding:
        released.wait()
        return met("too late")

    found = _checked(a_check(hang, seconds=0.05), HERE)
    released.set()
    assert (found.verdict, found.evidence, found.mend) == (Verdict.UNKNOWN, "not over in 0.05 s", "mend it")


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (ZeroDivisionError("division by zero"), Verdict.NOT_MET),
        (psycopg.errors.InsufficientPrivilege("permission denied"), Verdict.UNKNOWN),
        (psycopg.errors.QueryCanceled("statement timeout"), Verdict.UNKNOWN),
        (redis.exceptions.NoPermissionError("no permissions"), Verdict.UNKNOWN),
    ],
)
def test_a_check_that_breaks_says_how(error: Exception, verdict: Verdict) -> None:
    def fail(_: Deployment) -> Finding:
        raise error

    found = _checked(a_check(fail), HERE)
    assert found.verdict is verdict
    assert str(error) in found.evidence


@pytest.mark.parametrize(("apart", "verdict"), [(0, Verdict.MET), (5, Verdict.WARNING), (-20, Verdict.NOT_MET)])
def test_clocks_are_compared(apart: float, verdict: Verdict) -> None:
    assert _compared(lambda: 1000.0, lambda: 1000.0 + apart).verdict is verdict


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("postgresql://u:postgres@h/d", "tried first"),
        ("postgresql://someone:someone@h/d", "tried first"),
        ("redis://h/0", "no password"),
        ("redis://:short1@h/0", "less than"),
        ("redis://:aLongOneThatNobodyTries@h/0", None),
    ],
)
def test_weak_passwords(url: str, fault: str | None) -> None:
    said = _weakness(url)
    assert said is None if fault is None else fault in str(said)


def test_local_addresses() -> None:
    assert is_local("redis://127.0.0.1:1/0")
    assert is_local("postgresql:///d?host=/run/postgresql")
    assert not is_local("redis://redis.internal/0")


def test_every_check_has_a_name_of_its_own_a_meaning_and_a_way_to_mend() -> None:
    checks: list[Any] = [check for group in GROUPS for check in group.checks]
    assert len({check.name for check in checks}) == len(checks)
    assert all(check.meaning.endswith(".") and not check.mend.endswith(".") for check in checks)
    assert all(group.checks for group in GROUPS)
    assert sum(group.requirement for group in GROUPS) == 12


def test_what_mends_exists() -> None:
    told = [f"{check.mend} {check.meaning}" for group in GROUPS for check in group.checks]
    pages = {page for text in told for page in re.findall(r"docs/[\w/.-]+\.md", text)}
    commands = {name for text in told for name in re.findall(r"`dspex ([a-z]+)", text)}
    assert {page for page in pages if not (ROOT / page).is_file()} == set()
    assert commands - set(COMMANDS) == set()
