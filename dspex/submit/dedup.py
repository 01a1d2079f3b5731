"""Dedup: a submit that returns an execution which does the same.

Two executions do the same when they are of one version of a program and have equal inputs. Each such pair has a key
among the program's idempotency keys, so that only one of many submits at once stores an execution; the others find it.

A row of a batch has an execution in any case, since a batch is a range of ids. Where another execution does the same,
the row's execution names it: it waits for the other one and takes over its outputs, or runs itself if there are none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from dspex.errors import FieldError, ValidationError
from dspex.program.program import Program
from dspex.sealing.values import is_sealed
from dspex.store.lifecycle.batches import take_keys
from dspex.store.lifecycle.executions import Submission
from dspex.store.lifecycle.status import Status

__all__ = ["DEDUP_PREFIX", "dedup_faults", "dedup_key", "is_of_use", "refuse_dedup", "with_equals"]

#: What the keys begin with. A user's idempotency key does not.
DEDUP_PREFIX = "dspex:dedup:"


def dedup_key(submission: Submission) -> str:
    """The key of every execution of its tenant that does what this one does; a program has its own keys."""
    inputs = json.dumps(json.loads(submission.inputs), sort_keys=True, separators=(",", ":"))
    owner = "" if submission.tenant is None else f"{submission.tenant}:"
    return f"{DEDUP_PREFIX}{submission.version}:{owner}{hashlib.sha256(inputs.encode()).hexdigest()}"


def is_of_use(row: Mapping[str, Any], dedup: bool | timedelta) -> bool:
    """Whether an execution may be returned in the place of a new one: it is under way and not being cancelled, or it
    completed within the time that ``dedup`` allows."""
    status = Status(row["status"])
    if not status.is_final:
        return row["cancel_requested_at"] is None
    if status is not Status.COMPLETED:
        return False
    finished_at: datetime = row["finished_at"]
    return dedup is True or (isinstance(dedup, timedelta) and datetime.now(UTC) - finished_at <= dedup)


def dedup_faults(dedup: object, idempotency_key: str | None) -> list[FieldError]:
    """The faults of what a user gives."""
    if not isinstance(dedup, bool | timedelta) or (isinstance(dedup, timedelta) and dedup <= timedelta(0)):
        return [FieldError("dedup", "True, False or a timedelta above 0", repr(dedup)[:80])]
    if dedup is not False and idempotency_key is not None:
        return [FieldError("dedup", "no idempotency_key beside it: each of them chooses the execution")]
    return []


def refuse_dedup(program: Program, submission: Submission) -> None:
    """Raise ValidationError where executions must not stand for each other.

    Tools may act on the world, and which of them are called once is known to workers alone. A stored hash of sealed
    inputs would let them be guessed.
    """
    fault = None
    if program.tools:
        fault = FieldError("dedup", "False: the program has tools, whose effects a second submit may want again")
    elif is_sealed(submission.inputs):
        fault = FieldError("dedup", "False: the inputs are sealed, and no hash of them is stored")
    if fault is not None:
        raise ValidationError.of(f"submit to {program.name!r}", [fault])


def with_equals(
    connection: Connection, program: Program, submissions: Sequence[Submission], dedup: bool | timedelta
) -> list[Submission]:
    """The submissions of a batch, which name the executions that do the same. Needs the transaction that stores them.

    Raises ValidationError as :func:`refuse_dedup` does.
    """
    wanted: dict[str, UUID] = {}
    keys = []
    for submission in submissions:
        refuse_dedup(program, submission)
        keys.append(dedup_key(submission))
        wanted.setdefault(keys[-1], submission.id)
    within = {"within_seconds": dedup.total_seconds()} if isinstance(dedup, timedelta) else {}
    found = take_keys(connection, program.name, wanted, **within)
    return [
        each if found[key] == each.id else each._replace(same_as=found[key])
        for key, each in zip(keys, submissions, strict=True)
    ]
