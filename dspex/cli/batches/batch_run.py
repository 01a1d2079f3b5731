"""One run over the files of a batch: submit its rows, and write each as it ends."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any
from uuid import UUID

from dspex.cli.batches.batch_files import BatchFiles, BatchState
from dspex.cli.batches.batch_input import BatchInput
from dspex.cli.batches.batch_tables import write_errors, write_results
from dspex.cli.batches.line_file import Lines, refuse
from dspex.cli.output.failure_causes import causes_text
from dspex.cli.output.plain_text import echo
from dspex.cli.output.progress_bar import ProgressBars
from dspex.client.batch import Batch
from dspex.client.client import Client
from dspex.client.execution import Execution, cause_code
from dspex.errors import DspexError, ExecutionNotFound
from dspex.operations.report.dollars import dollars
from dspex.program.program import Program
from dspex.settings.failpoints import AFTER_BATCH_LINE, failpoint
from dspex.store.lifecycle.status import Status
from dspex.submit.batch_rows import BatchRows, Rejected
from dspex.submit.bulk import chunks
from dspex.wait.completion import IndexSet, groups

__all__ = ["BatchRun", "BatchTotals", "CostLimit"]


@dataclass(frozen=True, slots=True)
class BatchTotals:
    """The end of a run. ``left`` is how many rows ``--max-cost`` kept from being submitted."""

    batch_id: str
    rows: int
    completed: int
    failed: int
    causes: Mapping[str, int]
    cost_usd: float
    unpriced: int
    left: int = 0

    def text(self, files: BatchFiles) -> str:
        trouble = f", {self.failed} failed ({causes_text(self.causes)}): {files.errors.path}" if self.failed else ""
        cost = dollars(self.cost_usd, self.unpriced)
        left = f"; {self.left} not submitted, because of --max-cost: raise it, and run again" if self.left else ""
        return f"{self.rows} rows: {self.completed} completed: {files.output.path}{trouble}; cost {cost}{left}"


@dataclass(frozen=True, slots=True)
class CostLimit:
    """Submits rows in groups, so that the cost stops at ``most_usd``: ``mean_usd`` is the expected cost of a row."""

    most_usd: float
    mean_usd: float

    def group(self, left: int, spent_usd: float, finished: int) -> int:
        """How many of the rows that are left to submit now, when everything that was submitted is final.

        All of them if they fit twice over, else half of those that fit: so the limit holds although rows differ, and
        there are few groups.
        """
        mean = spent_usd / finished if finished else self.mean_usd
        if mean <= 0:
            return left
        fit = int((self.most_usd - spent_usd) / mean)
        return left if fit >= 2 * left else min(left, max((fit + 1) // 2, 0))


class BatchRun:
    """One run over the files of a batch."""

    def __init__(
        self, client: Client, program: Program, given: BatchInput, state: BatchState, files: BatchFiles,
        results: Lines, failed: Lines,
    ) -> None:  # fmt: skip
        self._client = client
        self._program = program
        self._given = given
        self._state = state
        self._files = files
        self._results = results
        self._failed = failed
        self._written = IndexSet(given.rows)
        self._taken = 0
        self._completed = 0
        self._causes: Counter[str] = Counter()

    def recover(self) -> None:
        """Read which rows earlier runs wrote, and take out failures of executions that were retried since."""
        self._completed = self._results.recover(self._written)
        self._failed.recover(self._written)
        retried = IndexSet(self._given.rows)
        for lines in groups(self._failed.lines()):
            executions = self._executions(lines)
            for line in lines:
                execution = executions.get(line["id"])
                if execution is not None and _failure(execution) != line["error"]:
                    retried.add(line["index"])
                    self._written.discard(line["index"])
                else:
                    self._causes[_cause(line)] += 1
        if retried:
            self._failed.drop(retried)

    def submit(self, bars: ProgressBars, options: Mapping[str, Any], most: int | None = None) -> bool:
        """Store the remaining rows, at most so many of them. Returns whether all rows of the input are stored.

        A rejected row is written to the file of errors before later rows are stored.
        """
        batch = self._stored()
        intake = self._client._submitter.intake(batch, self._program, **options)
        rows = islice(self._given.inputs(batch.size), most)
        with bars.phase("submitting", self._given.rows, done=batch.size) as on_progress:
            for chunk in chunks(rows):
                prepared = intake.prepare(chunk)
                for rejected in prepared.rejected:
                    self._reject(rejected)
                if prepared.rejected:
                    self._failed.sync()
                intake.store(prepared)
                on_progress(batch.size)
        self._taken = batch.size
        if self._taken < self._given.rows:
            return False
        intake.finish()
        return True

    def submit_within(self, bars: ProgressBars, options: Mapping[str, Any], limit: CostLimit) -> bool:
        """Submit and collect in groups until every row is stored or the limit is reached. Returns whether all are."""
        self.collect(bars)
        while True:
            progress = self._client.progress(UUID(self._state.batch_id))
            done = max(self._stored().size, self._taken)
            group = limit.group(self._given.rows - done, progress.cost_usd, progress.finished)
            if group == 0:
                self._taken = done
                return done >= self._given.rows
            complete = self.submit(bars, options, max(done - self._stored().size, 0) + group)
            self.collect(bars)
            if complete:
                return True

    def collect(self, bars: ProgressBars) -> None:
        """Write each execution that is stored as it ends, until all are written."""
        batch = Batch(self._client._session, self._stored())
        taken = self._given.rows if self._state.submitted else max(batch.size, self._taken)
        if len(self._written) < taken and not self._client.workers():
            echo("no worker is alive; waiting: start one with `dspex worker`, on this host or another", err=True)
        follow = batch.in_order if self._state.ordered else batch.as_completed
        executions = follow(skip=self._written)
        with bars.phase("executing", self._given.rows, done=len(self._written)) as on_progress:
            for execution, cells in self._beside(executions):
                self._write(execution, cells)
                on_progress(len(self._written))
        if self._state.ordered and not self._files.output.is_table:
            self._results.sort()
        if (left := taken - len(self._written)) > 0:
            raise refuse(
                f"{left} executions of batch {batch.id} no longer exist, and their rows are in no file: use --restart"
            )

    def write_tables(self) -> None:
        """Write the outputs that are written as a whole."""
        if self._files.output.is_table:
            self._results.sync()
            write_results(self._files.output, self._results, self._given, self._program.signature)
        if self._files.errors.is_table:
            self._failed.sync()
            write_errors(self._files.errors, self._failed, self._given)

    def totals(self) -> BatchTotals:
        progress = self._client.progress(UUID(self._state.batch_id))
        return BatchTotals(
            batch_id=self._state.batch_id,
            rows=self._given.rows,
            completed=self._completed,
            failed=self._causes.total(),
            causes=dict(self._causes.most_common()),
            cost_usd=progress.cost_usd,
            unpriced=progress.unpriced,
            left=self._given.rows - len(self._written),
        )

    def _beside(self, executions: Iterable[Execution]) -> Iterable[tuple[Execution, Mapping[str, Any]]]:
        """Each execution, with the other columns of its row where its line has them."""
        if self._files.output.is_table or not self._given.others:
            return ((execution, {}) for execution in executions)
        return self._given.beside(executions)

    def _executions(self, lines: Iterable[Mapping[str, Any]]) -> Mapping[str, Execution]:
        """The executions of these lines, as far as they exist; a rejected row has none."""
        session = self._client._session
        rows = session.rows([UUID(line["id"]) for line in lines if line["id"]])
        return {str(row["id"]): Execution(session, row) for row in rows}

    def _stored(self) -> BatchRows:
        id = UUID(self._state.batch_id)
        try:
            return self._client._session.batch_rows(id)
        except ExecutionNotFound:
            return BatchRows(id, self._program.name)

    def _reject(self, rejected: Rejected) -> None:
        self._put_failure({"index": rejected.index, "id": None, "error": rejected.error.as_dict()})

    def _write(self, execution: Execution, cells: Mapping[str, Any]) -> None:
        index, id = execution.batch_index, str(execution.id)
        assert index is not None
        if execution.status is not Status.COMPLETED:
            self._put_failure({"index": index, "id": id, "error": _failure(execution)})
        elif self._written.add(index):
            result = self._program.signature.encode("outputs", dict(execution.result(0)))
            self._completed += 1
            self._put(self._results, {"index": index, "id": id, "result": json.loads(result)}, cells)

    def _put_failure(self, line: Mapping[str, Any]) -> None:
        if self._written.add(line["index"]):
            self._causes[_cause(line)] += 1
            self._put(self._failed, line, {})

    def _put(self, lines: Lines, line: Mapping[str, Any], cells: Mapping[str, Any]) -> None:
        lines.write({**line, "row": cells} if cells else line)
        failpoint(AFTER_BATCH_LINE)


def _failure(execution: Execution) -> Mapping[str, Any] | None:
    """The recorded failure as the file of errors has it; None if the execution has not failed."""
    if execution.status is Status.CANCELLED:
        return DspexError(f"execution {execution.id} was cancelled", code="cancelled").as_dict()
    error = execution.shown_error if execution.status is Status.FAILED else None
    return None if error is None else error.as_dict()


def _cause(line: Mapping[str, Any]) -> str:
    """The cause of a line in the file of errors; rejected rows have no execution."""
    return "rejected" if line["id"] is None else cause_code(DspexError.from_dict(line["error"]))
