"""The examination: every check runs, in parallel where that disturbs nothing, and each has a time limit."""

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

from dspex.errors import BackendUnavailable, ExecutionTimedOut
from dspex.operations.doctor.check import Check, CheckVerdict, Finding, not_met, unknown
from dspex.operations.doctor.deployment import Deployment
from dspex.operations.doctor.doctor_report import CheckOutcome, GroupReport, Report
from dspex.operations.doctor.groups import GROUPS, CheckGroup, Wave

__all__ = ["examine", "run_check"]

#: How many checks run at a time.
AT_ONCE = {Wave.LOOK: 8, Wave.TRY: 4, Wave.MEASURE: 1}
#: How long it may take to find out which backends can be reached, in seconds.
LOOK_SECONDS = 30.0

OnProgress = Callable[[int, int, str], None]


def examine(
    *,
    only: Collection[str] = (),
    clock: Callable[[], float] = time.time,
    on_progress: OnProgress = lambda _done, _of, _title: None,
) -> Report:
    """Examine the deployment that the settings lead to; ``only`` limits it to groups of these names.

    Checks whose backend cannot be reached are reported as unknown. ``on_progress`` is called with the number of checks
    done, the number of all checks, and the title of the last; ``clock`` is this machine's.
    """
    groups = [group for group in GROUPS if not only or group.name in only]
    began = time.monotonic()
    deployment = Deployment(clock=clock)
    try:
        if not _in_time(deployment.look, LOOK_SECONDS):
            deployment.give_up()
        results = _run_all(groups, deployment, on_progress)
        return Report(
            at=datetime.now(UTC),
            version=version("dspex"),
            env=None if deployment.faults else deployment.settings.env,
            seconds=time.monotonic() - began,
            unreachable=deployment.unreachable,
            groups=[GroupReport(group, [results[check.name] for check in group.checks]) for group in groups],
        )
    finally:
        deployment.close()


def _run_all(groups: Sequence[CheckGroup], deployment: Deployment, on_progress: OnProgress) -> dict[str, CheckOutcome]:
    results: dict[str, CheckOutcome] = {}
    total = sum(len(group.checks) for group in groups)
    counting = threading.Lock()

    def run(check: Check) -> None:
        result = run_check(check, deployment)
        with counting:
            results[check.name] = result
            on_progress(len(results), total, check.title)

    for wave in Wave:
        checks = [check for group in groups if group.wave is wave for check in group.checks]
        with ThreadPoolExecutor(AT_ONCE[wave], thread_name_prefix="dspex-doctor") as pool:
            list(pool.map(run, checks))
    return results


def run_check(check: Check, deployment: Deployment) -> CheckOutcome:
    """The result of one check; an exception and a timeout are results, too."""
    began = time.perf_counter()
    found = _lacking(check, deployment) or _found(check, deployment)
    nothing_to_fix = found.verdict in (CheckVerdict.MET, CheckVerdict.NOT_APPLICABLE)
    return CheckOutcome(
        check=check,
        verdict=found.verdict,
        evidence=found.evidence,
        fix="" if nothing_to_fix else found.fix or check.fix,
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
        except Exception as error:  # any failure of a check is its finding
            result.set_result(_failure(error))

    threading.Thread(target=find, name=f"dspex-doctor {check.name}", daemon=True).start()
    try:
        return result.result(check.seconds)
    except NotInTime:
        return unknown(f"timed out after {check.seconds:g} s")


def _failure(error: Exception) -> Finding:
    cause = _origin(error)
    lines = str(cause).strip().splitlines()
    text = f"{type(cause).__name__}: {lines[0]}" if lines else type(cause).__name__
    if isinstance(cause, psycopg.errors.InsufficientPrivilege | redis.exceptions.NoPermissionError):
        return unknown(f"this role may not see it: {text}")
    if isinstance(cause, psycopg.errors.QueryCanceled):
        return unknown(f"Postgres took too long to answer: {text}")
    if _is_lost_connection(cause):
        return unknown(text, fix="see what the error names, and the log of that server; then run `dspex doctor` again")
    if isinstance(cause, ExecutionTimedOut):
        return not_met(text, fix="see the other findings about Redis, the workers and their work; `dspex show ID`")
    return not_met(text)


def _is_lost_connection(cause: BaseException) -> bool:
    """Whether Postgres or Redis could not be asked, so that nothing is known of what the check is about."""
    if isinstance(cause, psycopg.OperationalError):
        return (cause.sqlstate or "08")[:2] in ("08", "53", "57")
    return isinstance(cause, redis.ConnectionError | redis.TimeoutError | BackendUnavailable)


def _origin(error: BaseException) -> BaseException:
    """The driver's error that this one was raised from, or the error itself."""
    at: BaseException | None = error
    while at is not None:
        if isinstance(at, psycopg.Error):
            return at
        at = at.__cause__
    return error


def _in_time(work: Callable[[], None], seconds: float) -> bool:
    """Whether it ended within so many seconds; if not, it goes on in its thread."""
    thread = threading.Thread(target=work, name="dspex-doctor look", daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()
