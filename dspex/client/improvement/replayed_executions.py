"""Replays: the recorded inputs of executions on another version, beside what was recorded.

A replay is a batch. Each of its executions is given the recorded answers of the one that it replays, so that what the
version asks in the same words is not paid for again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from statistics import median
from typing import Any
from uuid import UUID

from dspex.client.execution import Execution
from dspex.client.improvement.evaluation import BUDGET_SPENT, budget_name
from dspex.client.improvement.evaluation_submit import limit_faults
from dspex.client.improvement.version_batch import VersionBatch
from dspex.client.lookup import check_arguments
from dspex.client.result import recorded_result
from dspex.client.session import Session
from dspex.client.submitter import Submitter
from dspex.errors import DspexError, ExecutionNotFound, FieldError, ValidationError
from dspex.program.improvement.purpose import Purpose
from dspex.store.improvement import evaluations
from dspex.store.lifecycle import budgets, executions
from dspex.store.lifecycle.batch_ids import new_batch_id
from dspex.store.lifecycle.selection import Selection
from dspex.store.lifecycle.status import Status
from dspex.submit.batch_rows import BatchRows
from dspex.wait.driver import Row

__all__ = ["Replay", "ReplayFigures", "ReplayedRow", "find_replay", "submit_replay"]

#: Rows of one query.
READ_ROWS = 500
#: The most faults that an error names, and the most executions of one replay.
MOST_FAULTS, MOST_EXECUTIONS = 20, 100_000


@dataclass(frozen=True, slots=True)
class Use:
    """What an execution took: of a replay, together with the answers that it was given. ``cost_usd`` is the known part
    of the cost; ``unpriced_lm_calls`` is how many calls have another one."""

    cost_usd: float | None
    tokens: int
    lm_calls: int
    execution_time_ms: float
    unpriced_lm_calls: int = 0


@dataclass(frozen=True, slots=True)
class ReplayedRow:
    """An execution and its replay. ``fields`` has the outputs that differ: the recorded value, and the new one."""

    original_id: UUID
    execution_id: UUID
    inputs: Mapping[str, Any]
    status: Status
    outputs: Mapping[str, Any] | None
    original_outputs: Mapping[str, Any] | None
    fields: Mapping[str, tuple[Any, Any]]
    error: DspexError | None
    use: Use
    original_use: Use
    cause_code: str | None = None

    @property
    def was_run(self) -> bool:
        """Whether it ran: it was not cancelled, and the budget was not spent before."""
        return self.status is not Status.CANCELLED and self.cause_code != BUDGET_SPENT

    @property
    def fails_now(self) -> bool:
        """Whether it failed although the original completed."""
        return self.was_run and self.status is Status.FAILED and self.original_outputs is not None

    @property
    def changed(self) -> bool:
        """Whether it ran and any output differs, or one of the two has none."""
        if not self.was_run:
            return False
        return bool(self.fields) or (self.outputs is None) != (self.original_outputs is None)


@dataclass(frozen=True, slots=True)
class ReplayFigures:
    """A replay in numbers: over the executions that are final. ``not_run`` of them were cancelled, or came after the
    budget was spent: they are in no other figure. ``by_field`` counts the changes of each output. Costs and tokens are
    totals, times are medians; of each, before and after. Costs are the known part: ``unpriced`` counts the executions
    with another one. ``paid_usd`` is what the replay itself cost, ``paid_unpriced`` counts its executions with another
    cost."""

    finished: int
    changed: int
    fails_now: int
    by_field: Mapping[str, int]
    cost_usd: tuple[float | None, float | None]
    tokens: tuple[int, int]
    execution_time_ms: tuple[float, float]
    paid_usd: float | None
    unpriced: tuple[int, int] = (0, 0)
    paid_unpriced: int = 0
    not_run: int = 0


class Replay(VersionBatch):
    """The executions of one ``client.replay``. Its attributes are read from the database at each use."""

    def rows(self) -> Iterator[ReplayedRow]:
        """Each execution that is final, beside the one that it replays; originals that retention removed are left
        out."""
        ids = self._batch.ids
        for begin in range(0, len(ids), READ_ROWS):
            replays = {row["id"]: row for row in self._session.rows(ids[begin : begin + READ_ROWS])}
            wanted = [Purpose.read(row["purpose"]).replay for row in replays.values()]
            originals = {row["id"]: row for row in self._session.rows([id for id in wanted if id is not None])}
            for id in ids[begin : begin + READ_ROWS]:
                row = replays.get(id)
                original = None if row is None else originals.get(Purpose.read(row["purpose"]).replay)
                if row is not None and original is not None and Status(row["status"]).is_final:
                    yield _replayed(self._session, row, original)

    @property
    def figures(self) -> ReplayFigures:
        """What changed, in numbers."""
        final = list(self.rows())
        rows = [row for row in final if row.was_run]
        names = dict.fromkeys(name for row in rows for name in row.fields)
        own = [each.metrics for each in self._executions()]
        paid = [each.cost_usd for each in own if each.cost_usd is not None]
        return ReplayFigures(
            finished=len(final),
            changed=sum(row.changed for row in rows),
            fails_now=sum(row.fails_now for row in rows),
            by_field={name: sum(name in row.fields for row in rows) for name in names},
            cost_usd=(_total([row.original_use for row in rows]), _total([row.use for row in rows])),
            tokens=(sum(row.original_use.tokens for row in rows), sum(row.use.tokens for row in rows)),
            execution_time_ms=(
                median([row.original_use.execution_time_ms for row in rows] or [0.0]),
                median([row.use.execution_time_ms for row in rows] or [0.0]),
            ),
            paid_usd=sum(paid) if paid else None,
            unpriced=(
                sum(row.original_use.unpriced_lm_calls > 0 for row in rows),
                sum(row.use.unpriced_lm_calls > 0 for row in rows),
            ),
            paid_unpriced=sum(each.unpriced_lm_calls > 0 for each in own),
            not_run=len(final) - len(rows),
        )

    def _executions(self) -> Iterator[Execution]:
        ids = self._batch.ids
        for begin in range(0, len(ids), READ_ROWS):
            yield from (Execution(self._session, row) for row in self._session.rows(ids[begin : begin + READ_ROWS]))


def submit_replay(
    session: Session,
    submitter: Submitter,
    program: str,
    *,
    version: str,
    since: datetime | None,
    status: Status | str | None,
    limit: int,
    budget_usd: float | None,
    priority: int,
) -> Replay:
    """See :meth:`dspex.Client.replay`."""
    if faults := [*_limit_faults(limit), *limit_faults(budget_usd=budget_usd)]:
        raise ValidationError.of("replay", faults)
    chosen = submitter.chosen(program, version)
    originals = _originals(session, program, since=since, status=status, limit=limit)
    if not originals:
        fault = FieldError("program", "executions to replay", f"none of {program!r} fits")
        raise ValidationError.of("replay", [fault])
    batch = BatchRows(new_batch_id(), chosen.name)
    purpose = Purpose(budget=None if budget_usd is None else budget_name(batch.id))
    intake = submitter.intake(batch, chosen, priority=priority, purpose={**purpose.content, "replays": True})
    prepared = intake.prepare([session.inputs(row) for row in originals])
    if prepared.rejected:
        raise ValidationError.of(f"replay on version {chosen.version}", list(_unfit(originals, prepared.rejected)))
    submissions = [
        made._replace(purpose=json.dumps(replace(purpose, replay=original["id"]).content))
        for made, original in zip(prepared.submissions, originals, strict=True)
    ]
    session.connections.rate.take()
    with session.database.transaction(saved="the replay was not begun") as connection:
        if purpose.budget is not None and budget_usd is not None:
            budgets.open_budget(connection, purpose.budget, float(budget_usd))
        executions.copy(connection, submissions)
    batch.extend(prepared.count)
    return Replay(session, batch, version=chosen.version)


def find_replay(session: Session, id: UUID) -> Replay:
    """A replay that was begun before, by any process. Raises ExecutionNotFound."""
    found = session.database.run(partial(evaluations.find, id=id))
    if found is None or Purpose.read(found.purpose).replay is None:
        raise ExecutionNotFound(f"no replay {str(id)!r}", execution_id=str(id))
    return Replay(session, session.batch_rows(id), version=found.version)


def _limit_faults(limit: object) -> Iterator[FieldError]:
    if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= MOST_EXECUTIONS:
        yield FieldError("limit", f"an integer from 1 to {MOST_EXECUTIONS}", repr(limit)[:80])


def _originals(
    session: Session, program: str, *, since: datetime | None, status: Status | str | None, limit: int
) -> list[Row]:
    """The executions to replay, the oldest first; evaluations and replays are none."""
    check_arguments("replay", since=since, status=status)
    chosen = None if status is None else Status(status).value
    selection = Selection(program=program, since=since, status=chosen, purposeless=True)
    found = session.database.run(partial(executions.listing, selection=selection, limit=limit))
    return [row for row in reversed(found) if Status(row["status"]).is_final]


def _unfit(originals: Sequence[Row], rejected: Sequence[Any]) -> Iterator[FieldError]:
    for each in rejected[:MOST_FAULTS]:
        for fault in each.error.errors:
            yield replace(fault, path=f"{originals[each.index]['id']}.{fault.path}")


def _replayed(session: Session, row: Row, original: Row) -> ReplayedRow:
    execution = Execution(session, row)
    new, old = _outputs(session, row), _outputs(session, original)
    return ReplayedRow(
        original_id=original["id"],
        execution_id=row["id"],
        inputs=session.inputs(row),
        status=execution.status,
        outputs=new,
        original_outputs=old,
        fields={} if old is None or new is None else _changes(old, new),
        error=execution.error,
        use=_use(row),
        original_use=_use(original),
        cause_code=execution.cause_code,
    )


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = [*old, *(name for name in new if name not in old)]
    return {name: (old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)}


def _outputs(session: Session, row: Row) -> dict[str, Any] | None:
    return dict(recorded_result(session, row)) if row["status"] == Status.COMPLETED else None


def _use(row: Row) -> Use:
    """What the execution took, with the answers that were lent to it (workers/lm/journal.py)."""
    metrics: Mapping[str, Any] = row["metrics"] or {}
    parts = [metrics, metrics.get("lent") or {}]
    costs = [part["cost_usd"] for part in parts if part.get("cost_usd") is not None]
    tokens = sum(int(part.get(name, 0)) for part in parts for name in ("prompt_tokens", "completion_tokens"))
    calls, unpriced = (sum(int(part.get(name, 0)) for part in parts) for name in ("lm_calls", "unpriced_lm_calls"))
    return Use(sum(costs) if costs else None, tokens, calls, float(metrics.get("execution_time_ms", 0.0)), unpriced)


def _total(uses: Sequence[Use]) -> float | None:
    known = [use.cost_usd for use in uses if use.cost_usd is not None]
    return sum(known) if known else None
