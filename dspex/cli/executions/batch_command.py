"""``dspex batch``: execute a program for every row of a file. An interrupted run continues where it stopped."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import click

from dspex.cli.executions.batch_files import BatchInput, BatchState, read_state, write_state
from dspex.cli.executions.line_file import LineFile, refuse
from dspex.cli.output.failure_causes import causes_text
from dspex.cli.output.json_output import echo_json, json_option
from dspex.cli.output.plain_text import echo
from dspex.cli.output.progress_bar import ProgressBars
from dspex.cli.shell_completion import program_names
from dspex.client.batch import Batch
from dspex.client.client import Client
from dspex.client.execution import Execution, cause_code
from dspex.errors import DspexError, ExecutionNotFound
from dspex.operations.report.dollars import dollars
from dspex.program.calls.routes import ROUTES
from dspex.program.program import Program
from dspex.settings.failpoints import AFTER_BATCH_LINE, failpoint
from dspex.store.lifecycle.batch_ids import new_batch_id
from dspex.store.lifecycle.status import Status
from dspex.submit.batch_rows import BatchRows, Rejected
from dspex.submit.bulk import chunks
from dspex.submit.json_rows import read_row
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
@click.option("--route", type=click.Choice(ROUTES), help="How model calls are made; batch costs about half the price.")
@click.option("--within", metavar="TIME", help="How long a call may wait in a batch, such as 24h.")
@click.option("--restart", is_flag=True, help="Discard the output of an earlier run and begin a new batch.")
@json_option
def batch(
    name: str, source: Path, output: Path, errors: Path | None, ordered: bool, priority: int, route: str | None,
    within: str | None, restart: bool,
    as_json: bool,
) -> int:  # fmt: skip
    """Execute a program for every line of IN.jsonl, a JSON object with its inputs.

    Each result is a line {"index", "id", "result"} in the output, each rejected row or failed execution a line
    {"index", "id", "error"} in the file of errors; the index is the number of the line in IN.jsonl, from 0. After an
    interruption, run the same command again: it continues where it stopped, and writes no row twice. After
    `dspex retry`, run it again, too: rows that were retried move from the file of errors to the output as they
    complete. The summary counts failures by cause, and has the cost. The exit code is 1 if some rows failed.

    \b
    Examples:
      dspex batch simple_qa questions.jsonl -o answers.jsonl --ordered
      dspex retry --batch 0193e0f2-5d0a-7c31-a1f4-3b0f00000000
      dspex batch simple_qa questions.jsonl -o answers.jsonl --ordered
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
            run.submit(bars, priority=priority, route=route, within=within)
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
        self._completed = 0
        self._causes: Counter[str] = Counter()

    def recover(self) -> None:
        """Read which rows earlier runs wrote, and take out failures of executions that were retried since."""
        self._completed = self._results.recover(self._written)
        self._failed.recover(self._written)
        retried = IndexSet(self._rows.rows)
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

    def submit(self, bars: ProgressBars, **options: Any) -> None:
        """Store the remaining rows. A rejected row is written to the file of errors before later rows are stored."""
        batch = self._stored()
        read = partial(read_row, self._program.signature)
        intake = self._client._submitter.intake(batch, self._program, **options)
        with bars.phase("submitting", self._rows.rows, done=batch.size) as on_progress:
            for chunk in chunks(map(read, self._rows.lines(batch.size))):
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
        if self._state.ordered:
            self._results.sort()
        if left := self._rows.rows - len(self._written):
            raise refuse(
                f"{left} executions of batch {batch.id} no longer exist, and their rows are in no file: use --restart"
            )

    def summary(self) -> Summary:
        progress = self._client.progress(UUID(self._state.batch_id))
        return Summary(
            batch_id=self._state.batch_id,
            rows=self._rows.rows,
            completed=self._completed,
            failed=self._causes.total(),
            causes=dict(self._causes.most_common()),
            cost_usd=progress.cost_usd,
            unpriced=progress.unpriced,
        )

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

    def _write(self, execution: Execution) -> None:
        index, id = execution.batch_index, str(execution.id)
        assert index is not None
        if execution.status is not Status.COMPLETED:
            self._put_failure({"index": index, "id": id, "error": _failure(execution)})
        elif self._written.add(index):
            result = self._program.signature.encode("outputs", dict(execution.result(0)))
            self._completed += 1
            self._put(self._results, {"index": index, "id": id, "result": json.loads(result)})

    def _put_failure(self, line: Mapping[str, Any]) -> None:
        if self._written.add(line["index"]):
            self._causes[_cause(line)] += 1
            self._put(self._failed, line)

    def _put(self, file: LineFile, line: Mapping[str, Any]) -> None:
        file.write(line)
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
