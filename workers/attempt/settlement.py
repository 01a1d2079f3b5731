"""Settlements: how an attempt that is over is recorded."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping
from typing import Any

from pydantic_core import to_json

from dspex.errors import DspexError, ProgramError
from dspex.program.program import Retry
from dspex.sealing.values import SealedAttempt
from dspex.store.audit_chain import encode_events
from dspex.store.lifecycle.executions import EXTRA, Settlement
from dspex.store.lifecycle.parked import Park
from dspex.store.lifecycle.status import Status
from dspex.store.workers import Owned
from workers.attempt.attempt import Attempt, Hosted
from workers.attempt.retry_policy import Fail, after_failure

__all__ = ["broken_off", "cancelled", "completed", "failed", "handed_back", "parked", "stored_error"]

#: The most bytes of JSON that are kept of what a program gave besides its outputs: an agent may make many steps.
EXTRA_BYTES_MOST = 256 * 1024
#: The policy of an execution whose program cannot be read.
NO_RETRY = Retry(max_attempts=1)
#: A program that waits may have been given answers in so many attempts that later ones do not ask for, but not more.
MOST_RUNS_ASIDE = 10
#: U+0000 as JSON writes it, after an even number of backslashes.
_NUL = re.compile(r"(?<!\\)((?:\\\\)*+)\\u0000")


def completed(attempt: Attempt, hosted: Hosted) -> Settlement:
    """The execution completes."""
    attempt.trail.record("completed")
    return _settlement(attempt, Status.COMPLETED, result=hosted.result, adapter_used=hosted.adapter)


def failed(attempt: Attempt, error: DspexError) -> Settlement:
    """The execution fails, or is queued again."""
    program = attempt.program
    decision = after_failure(
        error,
        attempt=attempt.claimed.attempt,
        max_attempts=attempt.claimed.max_attempts,
        retry=program.retry if program else NO_RETRY,
        chance=random.random(),  # noqa: S311
    )
    # When several adapters failed, the trail has each of them.
    adapter = program.adapters[0] if program and len(program.adapters) == 1 else None
    if isinstance(decision, Fail):
        attempt.trail.record("failed", code=decision.error.code, cause=error.code)
        return _settlement(attempt, Status.FAILED, error=stored_error(decision.error), adapter_used=adapter)
    delay = decision.delay_seconds
    attempt.trail.record("retried", code=error.code, delay_seconds=round(delay, 3))
    return _settlement(
        attempt,
        Status.QUEUED,
        error=stored_error(error),
        adapter_used=adapter,
        delay_seconds=delay,
        counts=decision.counts,
    )


def cancelled(attempt: Attempt) -> Settlement:
    """The execution is cancelled."""
    attempt.trail.record("cancelled")
    return _settlement(attempt, Status.CANCELLED)


def handed_back(attempt: Attempt) -> Settlement:
    """The execution is queued again, and the attempt does not count."""
    attempt.trail.record("recovered", reason="its worker stopped before it was done")
    return _settlement(attempt, Status.QUEUED, counts=False)


def parked(attempt: Attempt) -> Park:
    """The execution waits. What its journal has and the program did not ask for again is noted: it asks differently.

    Raises ProgramError (``program_not_repeatable``) for one that does so again and again: it would be paid for without
    end.
    """
    claimed, parking = attempt.claimed, attempt.parking
    runs, unused = attempt.journal.unused_attempts, attempt.journal.unused
    if runs >= MOST_RUNS_ASIDE:
        raise ProgramError(
            f"it waits, and has to ask its models the same when it runs again; but what it asked in {runs} attempts it "
            "asked in no later one: its questions must not depend on the time or on chance",
            code="program_not_repeatable",
        )  # fmt: skip
    noted: dict[str, Any] = {"for": parking.waiting_for, "calls": len(parking.calls)}
    if unused:
        noted["unused_answers"] = unused
    attempt.trail.record("parked", **noted)
    return Park(
        claimed.id,
        claimed.attempt,
        claimed.worker_id,
        parking.waiting_for,
        parking.calls,
        events=attempt.trail.encode(),
        metrics=_metrics(attempt),
        expires=attempt.program is not None and attempt.program.timeout_includes_waiting,
    )


def broken_off(owned: Owned) -> Settlement:
    """The execution fails, or is queued again, because a bug of this worker ended the attempt without a settlement."""
    error = DspexError("a bug of its worker ended the attempt: see its log", code="worker_failed", retryable=True)
    decision = after_failure(
        error,
        attempt=owned.attempt,
        max_attempts=owned.max_attempts,
        retry=Retry(),
        chance=random.random(),  # noqa: S311
    )
    if isinstance(decision, Fail):
        kind, status, delay, error = "failed", Status.FAILED, 0.0, decision.error
    else:
        kind, status, delay = "retried", Status.QUEUED, decision.delay_seconds
    return Settlement(
        owned.id,
        owned.attempt,
        owned.worker_id,
        status.value,
        events=encode_events([{"kind": kind, "data": {"code": error.code}}]),
        metrics=None,
        error=stored_error(error),
        delay_seconds=delay,
    )


def _settlement(attempt: Attempt, status: Status, **values: Any) -> Settlement:
    """The settlement with the attempt's metrics and events, sealed if the program's executions are."""
    claimed, trail = attempt.claimed, attempt.trail
    settlement = Settlement(
        claimed.id,
        claimed.attempt,
        claimed.worker_id,
        status.value,
        events=trail.encode(),
        metrics=_metrics(attempt),
        parent_id=claimed.parent_id,
        action_results=_results(attempt, status),
        **values,
    )
    return settlement if attempt.sealed is None else _sealed(settlement, attempt.sealed)


def _results(attempt: Attempt, status: Status) -> str | None:
    """The results of actions, and what a completed program gave besides its outputs."""
    results = dict(attempt.action_results)
    if status is Status.COMPLETED and attempt.extra and (extra := _kept(attempt.extra)):
        results[EXTRA] = extra
    return _NUL.sub(r"\1\\ufffd", json.dumps(results)) if results else None


def _kept(extra: Mapping[str, Any]) -> dict[str, Any]:
    """What JSON can hold of it, without the longest values if together they are too long."""
    sizes = {name: size for name, value in extra.items() if (size := _size(value)) is not None}
    while sum(sizes.values()) > EXTRA_BYTES_MOST:
        del sizes[max(sizes, key=sizes.__getitem__)]
    return {name: extra[name] for name in sizes}


def _size(value: Any) -> int | None:
    """The length as JSON; None for what is none."""
    try:
        return len(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        return None


def _sealed(settlement: Settlement, sealed: SealedAttempt) -> Settlement:
    return settlement._replace(
        result=settlement.result and sealed.result(settlement.result),
        error=settlement.error and sealed.error(settlement.error),
        action_results=settlement.action_results and sealed.actions(settlement.action_results),
    )


def _metrics(attempt: Attempt) -> str:
    claimed = attempt.claimed
    due_at = max(claimed.created_at, claimed.run_at)
    return to_json(
        {
            "execution_time_ms": round(attempt.trail.elapsed_ms, 3),
            "queue_time_ms": round((claimed.started_at - due_at).total_seconds() * 1000, 3),
            **attempt.journal.totals(),
            **({} if attempt.score is None else {"score": attempt.score}),
        }
    ).decode()


def stored_error(error: DspexError) -> str:
    """The error as JSON text, with U+0000 replaced: Postgres cannot read a member of a JSON text that contains it."""
    text = _NUL.sub(r"\1\\ufffd", json.dumps(error.as_dict(), ensure_ascii=False, default=str))
    return text.encode(errors="replace").decode()  # half a surrogate pair cannot be encoded
