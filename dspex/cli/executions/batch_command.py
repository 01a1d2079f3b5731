"""``dspex batch``: execute a program for every row of a file. An interrupted run continues where it stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import click

from dspex.cli.executions.batch_files import BatchInput, BatchState, LineFile, read_state, refuse, write_state
from dspex.cli.output.failure_causes import causes_text
from dspex.cli.output.json_output import echo_json, json_option
from dspex.cli.output.plain_text import echo
from dspex.cli.output.progress_bar import ProgressBars
from dspex.cli.shell_completion import program_names
from dspex.client.batch import Batch
from dspex.client.client import Client
from dspex.client.execution import Execution
from dspex.errors import DspexError, ExecutionNotFound, FieldError, ValidationError
from dspex.operations.report.dollars import dollars
from dspex.program.program import Program
from dspex.settings.failpoints import AFTER_BATCH_LINE, failpoint
from dspex.store.lifecycle.batch_ids import new_batch_id
from dspex.store.lifecycle.status import Status
from dspex.submit.batch_rows import BatchRows, Rejected
from dspex.submit.bulk import Row, chunks
from dspex.wait.completion import IndexSet, groups

__all__ = ["batch"]

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("name", shell_complete=program_names)
@click.argument("source", metavar="IN.jsonl", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-o", "--output", required=True, type=_FILE, help="The file of results: a JSON line for each row.")
@click.option("--errors", type=_FILE, help="The file of failures; by default NAME.errors.jsonl beside the output.")
@click.option("--ordered", is_flag=True, help="Write results in the order of the rows, not as they finish.")
@click.option("--priority", type=click.IntRange(0, 9), default=5, show_default=True, help="0 runs first.")
@click.option("--restart", is_flag=True, help="Discard the output of an earlier run and begin a new batch.")
@json_option
def batch(
    name: str, source: Path, output: Path, errors: Path | None, ordered: bool, priority: int, restart: bool,
    as_json: bool,
) -> int:  # fmt: skip
    """Execute a program for every line of IN.jsonl, a JSON object with its inputs.

    Each result is a line {"index", "id", "result"} in the output, each rejected row or failed execution a line
    {"index", "id", "error"} in the file of errors; the index is the number of the line in IN.jsonl, from 0. After an
    interruption, run the same command again: it continues where it stopped, and writes no row twice. After
    `dspex retry`, run it again as well: rows that were retried are taken out of the file of errors, and their new
    results are added to the output, at its end. The summary counts failures by cause, and has the cost. The exit code
    is 1 if some rows failed.

    Example: dspex batch simple_qa questions.jsonl -o answers.jsonl --ordered
    """
    with Client() as client, ExitStack() as files, ProgressBars() as bars:
        failures = errors or output.with_suffix(".errors.jsonl")
        with bars.phase("reading", None):
            rows = BatchInput.survey(source)
        results, failed = _open(files, output), _open(files, failures)
        state_path = output.with_name(output.name + ".batch")
        state = _state(client, state_path, name, rows, results, failed, ordered=ordered, restart=restart)
        run = BatchRun(client, client.program(state.program, state.version), rows, state, results, failed)
        run.recover()
        if not state.submitted:
            run.submit(bars, priority)
            write_state(state_path, replace(state, submitted=True))
        try:
            run.collect(bars)
        except KeyboardInterrupt:
            echo(
                f"the batch continues: run the same command to follow it, or `dspex cancel --batch {state.batch_id}`",
                err=True,
            )
            raise
        summary = run.summary()
    if as_json:
        echo_json(asdict(summary))
    else:
        echo(summary.text(output, failures), err=True)
    return 1 if summary.failed else 0


@dataclass(frozen=True, slots=True)
class Summary:
    batch_id: str
    rows: int
    completed: int
    failed: int
    causes: Mapping[str, int]
    cost_usd: float
    unpriced: int

    def text(self, output: Path, failures: Path) -> str:
        trouble = f", {self.failed} failed ({causes_text(self.causes)}): {failures}" if self.failed else ""
        cost = dollars(self.cost_usd, self.unpriced)
        return f"{self.rows} rows: {self.completed} completed: {output}{trouble}; cost {cost}"


class BatchRun:
    """One run over the files of a batch."""

    def __init__(
        self, client: Client, program: Program, rows: BatchInput, state: BatchState, results: LineFile, failed: LineFile
    ) -> None:
        self._client = client
        self._program = program
        self._rows = rows
        self._state = state
        self._results = results
        self._failed = failed
        self._written = IndexSet(rows.rows)
        self._counts = {results: 0, failed: 0}

    def recover(self) -> None:
        """Read which rows earlier runs wrote. Failures that are out of date are taken out and count as not written."""
        for file in self._counts:
            self._counts[file] = file.recover(self._written)
        retried = [index for group in groups(self._failed.entries()) for index in self._retried(group)]
        if retried:
            self._failed.remove(frozenset(retried))
            self._counts[self._failed] -= len(retried)
            for index in retried:
                self._written.discard(index)

    def _retried(self, failures: Sequence[Mapping[str, Any]]) -> Iterator[int]:
        """The rows of these lines whose executions were retried since, and run, wait or ended in another way."""
        lines = {UUID(line["id"]): line for line in failures if line["id"] is not None}
        for row in self._client._session.rows(lines.keys()):
            execution, line = Execution(self._client._session, row), lines[row["id"]]
            if not execution.status.is_final or _outcome(execution) != line.get("error"):
                yield line["index"]

    def submit(self, bars: ProgressBars, priority: int) -> None:
        """Store the remaining rows. A rejected row is written to the file of errors before later rows are stored."""
        batch = self._stored()
        intake = self._client._submitter.intake(batch, self._program, priority=priority)
        with bars.phase("submitting", self._rows.rows, done=batch.size) as on_progress:
            for chunk in chunks(map(self._parse, self._rows.lines(batch.size))):
                prepared = intake.prepare(chunk)
                for rejected in prepared.rejected:
                    self._reject(rejected)
                if prepared.rejected:
                    self._failed.sync()
                intake.store(prepared)
                on_progress(batch.size)

    def collect(self, bars: ProgressBars) -> None:
        """Write each execution as it ends, until every row is written."""
        batch = Batch(self._client._session, self._stored())
        if len(self._written) < self._rows.rows and not self._client.workers():
            echo("no worker is alive; waiting: start one with `dspex worker`, on this host or another", err=True)
        follow = batch.in_order if self._state.ordered else batch.as_completed
        with bars.phase("executing", self._rows.rows, done=len(self._written)) as on_progress:
            for execution in follow(skip=self._written):
                self._write(execution)
                on_progress(len(self._written))
        if left := self._rows.rows - len(self._written):
            raise refuse(
                f"{left} executions of batch {batch.id} no longer exist, and their rows are in no file: use --restart"
            )

    def summary(self) -> Summary:
        progress = self._client.progress(UUID(self._state.batch_id))
        counts = self._counts
        return Summary(
            batch_id=self._state.batch_id,
            rows=self._rows.rows,
            completed=counts[self._results],
            failed=counts[self._failed],
            causes=self._causes(progress.cancelled),
            cost_usd=progress.cost_usd,
            unpriced=progress.unpriced,
        )

    def _causes(self, cancelled: int) -> Mapping[str, int]:
        """How many rows failed, by the code of the cause. Rejected rows have no execution: they are the others."""
        causes = {**self._client._session.failures(UUID(self._state.batch_id)), "cancelled": cancelled}
        causes["rejected"] = self._counts[self._failed] - sum(causes.values())
        return {code: count for code, count in causes.items() if count > 0}

    def _stored(self) -> BatchRows:
        id = UUID(self._state.batch_id)
        try:
            return self._client._session.batch_rows(id)
        except ExecutionNotFound:
            return BatchRows(id, self._program.name)

    def _parse(self, line: bytes) -> Row:
        try:
            row: Row = json.loads(line)
        except (ValueError, RecursionError) as error:
            return ValidationError.of("the line", [FieldError("line", f"a JSON object ({error})")])
        try:
            return self._program.signature.decode("inputs", line)
        except (ValueError, TypeError, AttributeError):
            return row  # the validator has a clearer error

    def _reject(self, rejected: Rejected) -> None:
        self._put(self._failed, rejected.index, None, "error", rejected.error.as_dict())

    def _write(self, execution: Execution) -> None:
        index = execution.batch_index
        assert index is not None
        if execution.status is Status.COMPLETED:
            result = self._program.signature.encode("outputs", dict(execution.result(0)))
            self._put(self._results, index, execution.id, "result", json.loads(result))
        else:
            self._put(self._failed, index, execution.id, "error", _outcome(execution))

    def _put(self, file: LineFile, index: int, id: UUID | None, kind: str, value: object) -> None:
        if self._written.add(index):
            self._counts[file] += 1
            file.write({"index": index, "id": id and str(id), kind: value})
            failpoint(AFTER_BATCH_LINE)


def _outcome(execution: Execution) -> Any:
    """The error of an execution that is final, as JSON has it; None if it completed."""
    if execution.status is Status.COMPLETED:
        return None
    error = execution.shown_error or DspexError(f"execution {execution.id} was cancelled", code="cancelled")
    return json.loads(json.dumps(error.as_dict()))


def _open(files: ExitStack, path: Path) -> LineFile:
    file = LineFile(path)
    files.callback(file.close)
    return file


def _state(
    client: Client, path: Path, name: str, rows: BatchInput, results: LineFile, failed: LineFile,
    *, ordered: bool, restart: bool,
) -> BatchState:  # fmt: skip
    """The state of the earlier run that this one continues, or a new state."""
    known = None if restart else read_state(path)
    if known is not None:
        return _check_state(known, path, name, rows, ordered=ordered)
    if restart:
        results.clear()
        failed.clear()
    for file in (results, failed):
        if not file.is_empty:
            raise refuse(
                f"{file.path} exists and belongs to no batch that can be continued: use --restart to overwrite it"
            )
    version = client.program(name).version
    state = BatchState(str(new_batch_id()), name, version, rows.sha256, ordered)
    write_state(path, state)
    return state


def _check_state(known: BatchState, path: Path, name: str, rows: BatchInput, *, ordered: bool) -> BatchState:
    changed = []
    if known.program != name:
        changed.append(f"its program is {known.program!r}")
    if known.input_sha256 != rows.sha256:
        changed.append(f"{rows.path} has changed")
    if known.ordered != ordered:
        changed.append(f"it was begun {'with' if known.ordered else 'without'} --ordered")
    if changed:
        raise refuse(f"the batch of {path} cannot be continued: {'; '.join(changed)}. Use --restart to begin a new one")
    return known
