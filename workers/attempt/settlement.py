"""Settlements: how an attempt that is over is recorded."""

from __future__ import annotations

import json
import random
import re
from typing import Any

from pydantic_core import to_json

from dspex.errors import DspexError
from dspex.program.program import Program, Retry
from dspex.sealing.values import SealedAttempt
from dspex.store.lifecycle.executions import Claimed, Settlement
from dspex.store.lifecycle.status import Status
from workers.attempt.attempt_trail import AttemptTrail
from workers.attempt.retry_policy import Fail, after_failure
from workers.lm.journal import AttemptJournal

__all__ = ["failed", "record", "stored_error", "told"]

#: For an execution whose program cannot be read, and so neither its policy.
NO_RETRY = Retry(max_attempts=1)
#: U+0000 as JSON writes it, after an even number of backslashes.
_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")


def record(claimed: Claimed, status: Status, **values: Any) -> Settlement:
    """The settlement of this attempt; :func:`told` adds what is known only when all is over."""
    return Settlement(claimed.id, claimed.attempt, claimed.worker_id, status.value, events="", metrics="", **values)


def failed(claimed: Claimed, trail: AttemptTrail, error: DspexError, program: Program | None) -> Settlement:
    """That of an attempt that failed: the execution fails, or is queued again."""
    decision = after_failure(
        error,
        attempt=claimed.attempt,
        max_attempts=claimed.max_attempts,
        retry=program.retry if program else NO_RETRY,
        chance=random.random(),  # noqa: S311
    )
    # Of several adapters that failed none answered: the trail has each.
    values: dict[str, Any] = {"adapter_used": program.adapters[0] if program and len(program.adapters) == 1 else None}
    if isinstance(decision, Fail):
        trail.record("failed", code=decision.error.code, cause=error.code)
        return record(claimed, Status.FAILED, error=stored_error(decision.error), **values)
    delay = decision.delay_seconds
    trail.record("retried", code=error.code, delay_seconds=round(delay, 3))
    values |= {"error": stored_error(error), "delay_seconds": delay, "counts": decision.counts}
    return record(claimed, Status.QUEUED, **values)


def told(made: Settlement, claimed: Claimed, trail: AttemptTrail, journal: AttemptJournal) -> Settlement:
    """The settlement with its metrics and its events, sealed if the program's executions are."""
    whole = made._replace(
        metrics=_metrics(claimed, trail, journal),
        events=trail.encode(),
        action_results=json.dumps(trail.action_results) if trail.action_results else None,
    )
    return whole if journal.sealed is None else _sealed(whole, journal.sealed)


def _sealed(made: Settlement, sealed: SealedAttempt) -> Settlement:
    return made._replace(
        result=made.result and sealed.result(made.result),
        error=made.error and sealed.error(made.error),
        action_results=made.action_results and sealed.actions(made.action_results),
    )


def _metrics(claimed: Claimed, trail: AttemptTrail, journal: AttemptJournal) -> str:
    due_at = max(claimed.created_at, claimed.run_at)
    return to_json(
        {
            "execution_time_ms": round(trail.elapsed_ms, 3),
            "queue_time_ms": round((claimed.started_at - due_at).total_seconds() * 1000, 3),
            **journal.totals(),
        }
    ).decode()


def stored_error(error: DspexError) -> str:
    """The error as JSON text. Postgres reads no code out of a text with U+0000 anywhere in it: that is replaced."""
    text = _NUL.sub(r"\1\\ufffd", json.dumps(error.as_dict(), ensure_ascii=False, default=str))
    return text.encode(errors="replace").decode()  # half a surrogate pair is no UTF-8
