"""The examination: every check is made, side by side where that disturbs nothing, and each is over in time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotInTime
from datetime import UTC, datetime
from importlib.metadata import version

import psycopg
import redis

from dspex.operations.doctor.check import Check, Finding, Verdict, not_met, unknown
from dspex.operations.doctor.deployment import Deployment
from dspex.operations.doctor.doctor_report import GOOD, Checked, GroupReport, Report
from dspex.operations.doctor.groups import GROUPS, Group, Wave

__all__ = ["examine"]

#: Checks at a time.
AT_ONCE = {Wave.LOOK: 8, Wave.TRY: 4, Wave.MEASURE: 1}
#: How long finding out what is there may take, in seconds.
LOOK_SECONDS = 30.0

OnProgress = Callable[[int, int, str], None]


def examine(
    *,
    only: Collection[str] = (),
    clock: Callable[[], float] = time.time,
    on_progress: OnProgress = lambda _done, _of, _title: None,
) -> Report:
    """Examine the deployment that the settings lead to; ``only`` groups of these names.

    It works with whatever is there: of what is out of reach it says so. ``on_progress`` is told how many checks are
    made, of how many, and which was the last; ``clock`` is this machine's.
    """
    groups = [group for group in GROUPS if not only or group.name in only]
    began = time.monotonic()
    deployment = Deployment(clock=clock)
    try:
        if not _in_time(deployment.look, LOOK_SECONDS):
            deployment.give_up()
        made = _make(groups, deployment, on_progress)
        return Report(
            at=datetime.now(UTC),
            version=version("dspex"),
            env=None if deployment.faults else deployment.settings.env,
            seconds=time.monotonic() - began,
            unreachable=deployment.unreachable,
            groups=[GroupReport(group, [made[check.name] for check in group.checks]) for group in groups],
        )
    finally:
        deployment.close()


def _make(groups: Sequence[Group], deployment: Deployment, on_progress: OnProgress) -> dict[str, Checked]:
    made: dict[str, Checked] = {}
    total = sum(len(group.checks) for group in groups)
    counting = threading.Lock()

    def make(check: Check) -> None:
        checked = _checked(check, deployment)
        with counting:
            made[check.name] = checked
            on_progress(len(made), total, check.title)

    for wave in Wave:
        checks = [check for group in groups if group.wave is wave for check in group.checks]
        with ThreadPoolExecutor(AT_ONCE[wave], thread_name_prefix="dspex-doctor") as pool:
            list(pool.map(make, checks))
    return made


def _checked(check: Check, deployment: Deployment) -> Checked:
    began = time.perf_counter()
    found = _lacking(check, deployment) or _found(check, deployment)
    good = found.verdict in (*GOOD[:1], Verdict.SKIPPED)
    return Checked(
        check=check,
        verdict=found.verdict,
        evidence=found.evidence,
        mend="" if good else found.mend or check.mend,
        ms=round((time.perf_counter() - began) * 1000, 1),
        figures=found.figures,
    )


def _lacking(check: Check, deployment: Deployment) -> Finding | None:
    return next((deployment.missing[need] for need in check.needs if need in deployment.missing), None)


def _found(check: Check, deployment: Deployment) -> Finding:
    result: Future[Finding] = Future()

    def find() -> None:
        try:
            result.set_result(check.find(deployment))
        except Exception as error:  # whatever a check meets is what it found
            result.set_result(_failure(error))

    threading.Thread(target=find, name=f"dspex-doctor {check.name}", daemon=True).start()
    try:
        return result.result(check.seconds)
    except NotInTime:
        return unknown(f"not over in {check.seconds:g} s")


def _failure(error: Exception) -> Finding:
    cause = _origin(error)
    lines = str(cause).strip().splitlines()
    text = f"{type(cause).__name__}: {lines[0]}" if lines else type(cause).__name__
    if isinstance(cause, psycopg.errors.InsufficientPrivilege | redis.exceptions.NoPermissionError):
        return unknown(f"this role may not see it: {text}")
    if isinstance(cause, psycopg.errors.QueryCanceled):
        return unknown(f"Postgres took too long to answer: {text}")
    return not_met(text)


def _origin(error: BaseException) -> BaseException:
    """The error of the driver that one was made of, or itself."""
    at: BaseException | None = error
    while at is not None:
        if isinstance(at, psycopg.Error):
            return at
        at = at.__cause__
    return error


def _in_time(work: Callable[[], None], seconds: float) -> bool:
    """Whether it was over in so many seconds; if not, it is left to itself."""
    thread = threading.Thread(target=work, name="dspex-doctor look", daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()
