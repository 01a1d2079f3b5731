"""Control of executions and programs: cancel, retry, pause, resume."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from uuid import UUID

from dspex.client.lookup import not_found, program_not_found, require_program
from dspex.errors import TransitionRefused
from dspex.publish.broker import Broker
from dspex.publish.channels import CANCEL_CHANNEL, DONE_CHANNEL
from dspex.store import programs
from dspex.store.database import Database
from dspex.store.lifecycle import batches, control, executions
from dspex.store.lifecycle.batch_ids import execution_id
from dspex.store.lifecycle.selection import Selection
from dspex.store.lifecycle.set_statements import RowFault, for_each_row
from dspex.store.lifecycle.status import Status

__all__ = ["Control"]

#: Executions per statement of :meth:`Control.cancel_batch` and :meth:`Control.retry_failed`.
CANCEL_ROWS = RETRY_ROWS = 1000
#: Who retried an execution, where nothing else is known.
OPERATOR = "operator"
_FIRST_ID = UUID(int=0)


def _ignore(_done: int, _total: int) -> None:
    """The default ``on_progress``."""


def _raise_refused(what: str, refused: Sequence[RowFault[UUID]]) -> None:
    """Raise the error for executions that Postgres refuses to change; the others were changed."""
    if refused:
        ids = [str(fault.row) for fault in refused]
        others = "" if len(ids) == 1 else f" and {len(ids) - 1} others"
        raise TransitionRefused(
            f"execution {ids[0]!r}{others} cannot be {what}: Postgres refuses the change ({refused[0].reason}); "
            "`dspex audit verify` shows whether its trail was tampered with",
            execution_id=ids[0], refused=ids,
        )  # fmt: skip


class Control:
    """Changes the state of executions and programs: in Postgres first, then with a hint through Redis."""

    def __init__(self, database: Database, broker: Broker) -> None:
        self._database = database
        self._broker = broker

    def cancel(self, id: UUID, *, by: str | None = None) -> bool:
        """Cancel a queued or waiting execution and its children at once, and request workers to end running ones.

        ``by`` is in the audit event.

        True when it is cancelled or its cancellation was requested: it may still complete before that. False when it
        had completed or failed already. Raises ExecutionNotFound, TransitionRefused when Postgres refuses the change.
        """
        found, refused = self._cancel([id], by)
        _raise_refused("cancelled", refused)
        if not (found.ended or found.running or found.final):
            raise not_found(self._database, id)
        return found.final.get(id, Status.CANCELLED) == Status.CANCELLED

    def cancel_batch(
        self, batch_id: UUID, on_progress: Callable[[int, int], None] = _ignore, *, by: str | None = None
    ) -> int:
        """Cancel the unfinished executions of a batch, as :meth:`cancel` does. Returns how many.

        Raises TransitionRefused at the end, for those that Postgres refuses to change.
        """
        all_refused: list[RowFault[UUID]] = []
        counts = self._database.run(partial(batches.progress, batch_id=batch_id))["counts"]
        left, count, after = sum(n for status, n in counts.items() if not Status(status).is_final), 0, -1
        while indexes := self._database.run(
            partial(batches.unfinished_indexes, batch_id=batch_id, after=after, most=CANCEL_ROWS)
        ):
            found, refused = self._cancel([execution_id(batch_id, index) for index in indexes], by)
            all_refused += refused
            count += len(found.ended) + len(found.running)
            after = indexes[-1]
            on_progress(count, max(left, count))
        _raise_refused("cancelled", all_refused)
        return count

    def cancel_all(self, ids: Sequence[UUID]) -> int:
        """Cancel these executions, as :meth:`cancel` does. Returns how many. Raises TransitionRefused at the end, for
        those that Postgres refuses to change."""
        found, refused = self._cancel(ids, None)
        _raise_refused("cancelled", refused)
        return len(found.ended) + len(found.running)

    def retry(self, id: UUID, *, by: str = OPERATOR) -> None:
        """Queue a failed or cancelled execution again. Raises TransitionRefused for any other, ExecutionNotFound."""
        retried, refused = self._retry([id], by)
        _raise_refused("retried", refused)
        if retried:
            return
        row = self._database.run(partial(executions.find, id=id))
        if row is None:
            raise not_found(self._database, id)
        raise TransitionRefused(
            f"execution {str(id)!r} is {row['status']}: only failed and cancelled executions are retried",
            execution_id=str(id), status=row["status"],
        )  # fmt: skip

    def retry_failed(
        self, selection: Selection, on_progress: Callable[[int, int], None] = _ignore, *, by: str = OPERATOR
    ) -> int:
        """Queue every selected execution that has failed by now again. Returns how many.

        Raises ProgramNotFound, and TransitionRefused at the end, for those that Postgres refuses to change.
        """
        if selection.program is not None:
            require_program(self._database, selection.program)
        all_refused: list[RowFault[UUID]] = []
        before = self._database.run(control.now)
        count, after = 0, _FIRST_ID
        total = self._database.run(partial(control.count_failed, selection=selection, after=after, before=before))
        while ids := self._failed(selection, after, before):
            retried, refused = self._retry(ids, by)
            all_refused += refused
            count += len(retried)
            after = ids[-1]
            on_progress(count, max(total, count))
        _raise_refused("retried", all_refused)
        return count

    def pause(self, program: str, *, reason: str = programs.BY_OPERATOR, by: str | None = None) -> None:
        """Begin no execution of the program until it is resumed; running ones go on. Raises ProgramNotFound."""
        self._set_pause(program, paused=True, reason=reason, by=by)

    def resume(self, program: str, *, by: str | None = None) -> None:
        """Begin executions of the program again. Raises ProgramNotFound."""
        self._set_pause(program, paused=False, by=by)

    def paused(self) -> Mapping[str, str]:
        """The paused programs by name, each with the reason."""
        return self._database.run(programs.paused)

    def _cancel(self, ids: Sequence[UUID], by: str | None) -> tuple[control.Cancelled, list[RowFault[UUID]]]:
        found, refused = control.cancel_each(
            lambda some: self._database.run(
                partial(control.cancel, ids=some, by=by), saved="nothing more is cancelled"
            ),
            ids,
        )
        self._broker.publish_hint(DONE_CHANNEL, [*found.ended, *found.ended_children])
        self._broker.publish_hint(CANCEL_CHANNEL, [*found.running, *found.running_children])
        return found, refused

    def _retry(self, ids: Sequence[UUID], by: str) -> tuple[list[UUID], list[RowFault[UUID]]]:
        return for_each_row(lambda some: self._database.run(partial(control.retry, ids=some, by=by)), ids)

    def _failed(self, selection: Selection, after: UUID, before: datetime) -> list[UUID]:
        find = partial(control.failed_ids, selection=selection, after=after, before=before, most=RETRY_ROWS)
        return self._database.run(find)

    def _set_pause(
        self, program: str, *, paused: bool, reason: str = programs.BY_OPERATOR, by: str | None = None
    ) -> None:
        change = partial(programs.set_pause, name=program, paused=paused, reason=reason, by=by)
        if not self._database.run(change):
            raise program_not_found(self._database, program)
