"""``dspex batch``: a program over every row of a file; killed and run again, it goes on where it stopped."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from uuid import UUID

import click

from dspex.cli.executions.batch_files import Input, LineFile, State, read_state, refuse, write_state
from dspex.cli.output.json_output import echo_json, json_option
from dspex.cli.output.progress_bar import Meter
from dspex.cli.shell_completion import program_names
from dspex.client.batch import Batch, Rejected, new_batch_id
from dspex.client.client import Client
from dspex.client.execution import Execution
from dspex.errors import DspexError, ExecutionNotFound, FieldError, ValidationError
from dspex.program.program import Program
from dspex.settings.failpoints import AFTER_BATCH_LINE, failpoint
from dspex.store.lifecycle.status import Status
from dspex.submit.bulk import Row, chunks
from dspex.wait.completion import IndexSet

__all__ = ["batch"]

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("name", shell_complete=program_names)
@click.argument("source", metavar="IN.jsonl", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-o", "--output", required=True, type=_FILE, help="Where results go: a JSON line for each row.")
@click.option("--errors", type=_FILE, help="Where failures go; by default beside the output, as NAME.errors.jsonl.")
@click.option("--ordered", is_flag=True, help="Write in the order of the rows, not as they finish.")
@click.option("--priority", type=click.IntRange(0, 9), default=5, show_default=True, help="0 runs first.")
@click.option("--restart", is_flag=True, help="Throw away what an earlier run wrote, and begin a new batch.")
@json_option
def batch(
    name: str, source: Path, output: Path, errors: Path | None, ordered: bool, priority: int, restart: bool,
    as_json: bool,
) -> int:  # fmt: skip
    """Execute a program for every line of IN.jsonl, a JSON object with its inputs.

    Each result is a line {"index", "id", "result"} of the output, each rejected row or failed execution a line
    {"index", "id", "error"} of the errors; the index is the line's number in IN.jsonl, from 0. Interrupted or killed,
    run the same command again: it goes on where it stopped, and writes no row twice. The exit code is 1 when some
    rows failed.

    Example: dspex batch simple_qa questions.jsonl -o answers.jsonl --ordered
    """
    with Client() as client, ExitStack() as files, Meter() as meter:
        failures = errors or output.with_suffix(".errors.jsonl")
        with meter.phase("reading", None):
            rows = Input.survey(source)
        results, failed = _open(files, output), _open(files, failures)
        state_path = output.with_name(output.name + ".batch")
        state = _state(client, state_path, name, rows, results, failed, ordered=ordered, restart=restart)
        run = Run(client, client.program(state.program, state.version), rows, state, results, failed)
        run.recover()
        if not state.submitted:
            run.submit(meter, priority)
            write_state(state_path, replace(state, submitted=True))
        try:
            run.collect(meter)
        except KeyboardInterrupt:
            click.echo(
                f"it goes on: the same command follows it, `dspex cancel --batch {state.batch_id}` ends it", err=True
            )
            raise
        summary = run.summary()
    if as_json:
        echo_json(asdict(summary))
    else:
        click.echo(summary.text(output, failures), err=True)
    return 1 if summary.failed else 0


@dataclass(frozen=True, slots=True)
class Summary:
    batch_id: str
    rows: int
    completed: int
    failed: int

    def text(self, output: Path, failures: Path) -> str:
        trouble = f", {self.failed} failed: {failures}" if self.failed else ""
        return f"{self.rows} rows: {self.completed} completed: {output}{trouble}"


class Run:
    """One run over the files of a batch."""

    def __init__(
        self, client: Client, program: Program, rows: Input, state: State, results: LineFile, failed: LineFile
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
        """Find out what earlier runs wrote."""
        for file in self._counts:
            self._counts[file] = file.recover(self._written)

    def submit(self, meter: Meter, priority: int) -> None:
        """Store the rows that are not stored. A rejected one is reported before anything after it is stored."""
        batch = self._stored()
        intake = self._client.intake(batch, self._program, priority=priority)
        with meter.phase("submitting", self._rows.rows, done=batch.size) as show:
            for chunk in chunks(map(self._parse, self._rows.lines(batch.size))):
                prepared = intake.prepare(chunk)
                for rejected in prepared.rejected:
                    self._reject(rejected)
                if prepared.rejected:
                    self._failed.sync()
                intake.store(prepared)
                show(batch.size)

    def collect(self, meter: Meter) -> None:
        """Write what is final and not written, until everything is."""
        batch = self._stored()
        if len(self._written) < self._rows.rows and not self._client.workers():
            click.echo("no worker is alive: start one with `dspex worker`, here or elsewhere; this waits", err=True)
        follow = batch.in_order if self._state.ordered else batch.as_completed
        with meter.phase("executing", self._rows.rows, done=len(self._written)) as show:
            for execution in follow(skip=self._written):
                self._write(execution)
                show(len(self._written))
        if left := self._rows.rows - len(self._written):
            raise refuse(f"{left} executions of batch {batch.id} are gone, and their rows are in no file: --restart")

    def summary(self) -> Summary:
        counts = self._counts
        return Summary(self._state.batch_id, self._rows.rows, counts[self._results], counts[self._failed])

    def _stored(self) -> Batch:
        id = UUID(self._state.batch_id)
        try:
            return self._client.batch(id)
        except ExecutionNotFound:
            return Batch(self._client, id, self._program.name)

    def _parse(self, line: bytes) -> Row:
        try:
            row: Row = json.loads(line)
        except (ValueError, RecursionError) as error:
            return ValidationError.of("the line", [FieldError("line", f"a JSON object ({error})")])
        try:
            return self._program.signature.decode("inputs", line)
        except (ValueError, TypeError, AttributeError):
            return row  # what the validator will say about it is clearer

    def _reject(self, rejected: Rejected) -> None:
        self._put(self._failed, rejected.index, None, "error", rejected.error.as_dict())

    def _write(self, execution: Execution) -> None:
        index = execution.batch_index
        assert index is not None
        if execution.status is Status.COMPLETED:
            result = self._program.signature.encode("outputs", dict(execution.result(0)))
            self._put(self._results, index, execution.id, "result", json.loads(result))
        else:
            error = execution.shown_error or DspexError(f"execution {execution.id} was cancelled", code="cancelled")
            self._put(self._failed, index, execution.id, "error", error.as_dict())

    def _put(self, file: LineFile, index: int, id: UUID | None, kind: str, value: object) -> None:
        if self._written.add(index):
            self._counts[file] += 1
            file.write({"index": index, "id": id and str(id), kind: value})
            failpoint(AFTER_BATCH_LINE)


def _open(files: ExitStack, path: Path) -> LineFile:
    file = LineFile(path)
    files.callback(file.close)
    return file


def _state(
    client: Client, path: Path, name: str, rows: Input, results: LineFile, failed: LineFile,
    *, ordered: bool, restart: bool,
) -> State:  # fmt: skip
    """The state that an earlier run left, if this one goes on with it; else that of a new batch."""
    known = None if restart else read_state(path)
    if known is not None:
        return _fitting(known, path, name, rows, ordered=ordered)
    if restart:
        results.clear()
        failed.clear()
    for file in (results, failed):
        if not file.is_empty:
            raise refuse(f"{file.path} exists, and is of no batch that could go on: --restart overwrites it")
    version = client.program(name).version
    state = State(str(new_batch_id()), name, version, rows.sha256, ordered)
    write_state(path, state)
    return state


def _fitting(known: State, path: Path, name: str, rows: Input, *, ordered: bool) -> State:
    changed = []
    if known.program != name:
        changed.append(f"it is of program {known.program!r}")
    if known.input_sha256 != rows.sha256:
        changed.append(f"{rows.path} has changed since")
    if known.ordered != ordered:
        changed.append(f"it was begun {'with' if known.ordered else 'without'} --ordered")
    if changed:
        raise refuse(f"the batch of {path} cannot go on: {'; '.join(changed)}. --restart begins a new one")
    return known
