"""``dspex batch``: execute a program for every row of a file. An interrupted run continues where it stopped."""

from __future__ import annotations

import codecs
import errno
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import click

from dspex.cli.batches.batch_files import (
    STANDARD,
    STANDARD_ERROR,
    BatchFiles,
    BatchState,
    Destination,
    read_state,
    readable,
    write_state,
)
from dspex.cli.batches.batch_input import BatchInput, InputOptions
from dspex.cli.batches.batch_run import BatchRun, BatchTotals, CostLimit
from dspex.cli.batches.dry_run import SAMPLE_ROWS, confirmed_cost, estimate_data, estimate_text, run_sample
from dspex.cli.batches.line_file import LineFile, Lines, LineStream, refuse
from dspex.cli.output.json_output import json_option
from dspex.cli.output.number_options import NumberRange
from dspex.cli.output.plain_text import echo
from dspex.cli.output.progress_bar import ProgressBars
from dspex.cli.output.selection_options import MemberParameter, by_name, webhook_option
from dspex.cli.shell_completion import program_names
from dspex.client.client import Client
from dspex.data.arrow_types import spare_memory
from dspex.data.formats import FORMATS
from dspex.data.table_writers import refuse_unwritable
from dspex.program.calls.routes import ROUTES
from dspex.program.program import Program
from dspex.store.lifecycle.batch_ids import new_batch_id

__all__ = ["batch"]

_FILE = click.Path(dir_okay=False, allow_dash=True, path_type=Path)
_INPUT = click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)


class EncodingParameter(click.ParamType):  # type: ignore[type-arg]  # click before 8.5 has no argument there
    """The name of a text encoding that Python knows."""

    name = "encoding"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return codecs.lookup(value).name
        except LookupError:
            self.fail(f"{value!r} is not an encoding; for example utf-8, utf-16, cp1252, shift_jis", param, ctx)


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """The options of the command beside its files."""

    program: str
    reading: InputOptions
    ordered: bool
    intake: Mapping[str, Any]
    restart: bool
    sample: int | None
    max_cost: float | None
    yes: bool


@click.command()
@click.argument("name", shell_complete=program_names)
@click.argument("source", metavar="IN", type=_INPUT)
@click.option("-o", "--output", type=_FILE, help="The file of results. Needed, except with --dry-run alone.")
@click.option("--errors", type=_FILE, help="The file of failures; by default NAME.errors.FORMAT beside the output.")
@click.option(
    "--map",
    "pairs",
    type=MemberParameter(),
    multiple=True,
    metavar="FIELD=COLUMN",
    help="Read an input from a column of another name. Can be repeated.",
)
@click.option(
    "--empty",
    type=click.Choice(["missing", "null", "text"]),
    default="missing",
    show_default=True,
    help="What an empty cell is: left out, so that the default of its field is used; null; or the empty text.",
)
@click.option("--encoding", type=EncodingParameter(), help="The encoding of the input, if it is not UTF-8.")
@click.option("--input-format", type=click.Choice(FORMATS), help="The format of IN, if its name does not show it.")
@click.option("--output-format", type=click.Choice(FORMATS), help="The format of the output, likewise.")
@click.option("--ordered", is_flag=True, help="Write results in the order of the rows; tables always are.")
@click.option("--priority", type=click.IntRange(0, 9), default=5, show_default=True, help="0 runs first.")
@click.option("--route", type=click.Choice(ROUTES), help="How model calls are made; batch costs about half the price.")
@click.option("--within", metavar="TIME", help="How long a call may wait in a batch, such as 24h.")
@webhook_option
@click.option("--restart", is_flag=True, help="Discard the output of an earlier run and begin a new batch.")
@click.option(
    "--dry-run",
    "sample",
    type=click.IntRange(1, 10_000),
    metavar="N",
    help="Run N rows that are spread over the file, and show what all of them will cost and take. Ends then, unless "
    "--max-cost is given.",
)
@click.option(
    "--max-cost",
    type=NumberRange(0, min_open=True),
    metavar="USD",
    help="Estimate the cost from a sample, ask if it may be more, and submit no more rows once it is spent.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def batch(
    name: str, source: Path, output: Path | None, errors: Path | None, pairs: tuple[tuple[str, str], ...], empty: Any,
    encoding: str | None, input_format: str | None, output_format: str | None, ordered: bool, priority: int,
    route: str | None, within: str | None, webhook: str | None, restart: bool, sample: int | None,
    max_cost: float | None, yes: bool, as_json: bool,
) -> int:  # fmt: skip
    """Execute a program for every row of IN: .jsonl, .csv, .tsv, .parquet, also .gz of text, or - for standard input.

    Inputs are read from the columns of their names. In a CSV file, the outputs are columns beside the columns of IN;
    lists and objects are JSON. In JSON lines, each result is a line {"index", "id", "result"}, where the index is the
    number of the row from 0, and "row" has the columns that are no inputs. Rejected rows and failed executions are in
    the file of errors.

    After an interruption, run the same command again: it continues where it stopped, and writes no row twice. Only an
    output that is a file can be continued. After `dspex retry`, run it again, too: rows that were retried move from
    the file of errors to the output as they complete. The summary counts failures by cause, and has the cost. The exit
    code is 1 if some rows failed.

    \b
    Examples:
      dspex batch simple_qa questions.jsonl -o answers.jsonl --ordered
      dspex batch triage tickets.csv -o triaged.csv --map ticket=body --errors failed.csv
      dspex batch triage tickets.parquet --dry-run 50
      dspex batch triage tickets.parquet -o triaged.parquet --max-cost 20
      zcat questions.jsonl.gz | dspex batch simple_qa - -o - | jq .result
    """
    intake = {"priority": priority, "route": route, "within": within, "webhook": webhook}
    reading = InputOptions(by_name(pairs, "--map"), empty, encoding)
    options = BatchOptions(name, reading, ordered, intake, restart, sample, max_cost, yes)
    only_sample = sample is not None and max_cost is None
    if output is None and not only_sample:
        raise click.UsageError("Missing option '-o' / '--output'.")
    with Client() as client, ExitStack() as files, ProgressBars() as bars:
        directory = Path(files.enter_context(tempfile.TemporaryDirectory(prefix="dspex-batch-")))
        plan = BatchFiles.of(
            source, output or STANDARD, errors, directory, source_format=input_format, output_format=output_format
        )
        if {plan.source_format.kind, plan.output.format.kind} != {"jsonl"}:
            spare_memory()
        path = files.enter_context(readable(source))
        if only_sample:
            return _dry_run(client, path, plan, options, bars, as_json=as_json)
        totals = _run(client, path, plan, options, files, bars)
    if not as_json:
        echo(totals.text(plan), err=True)
    else:
        _print_json(asdict(totals), err=plan.output.path == STANDARD)
    return 1 if totals.failed or totals.left else 0


def _dry_run(
    client: Client, path: Path, plan: BatchFiles, options: BatchOptions, bars: ProgressBars, *, as_json: bool
) -> int:
    program = client.program(options.program)
    with bars.phase("reading", None):
        given = BatchInput.read(path, plan.source_format, program.signature, options.reading)
    estimate = run_sample(client, program, given, options.sample or SAMPLE_ROWS, bars, int(options.intake["priority"]))
    if estimate is None:
        raise refuse(f"{plan.source} has no rows")
    if as_json:
        _print_json(estimate_data(estimate), err=False)
    else:
        echo(estimate_text(estimate))
    return 0


def _run(
    client: Client, path: Path, plan: BatchFiles, options: BatchOptions, files: ExitStack, bars: ProgressBars
) -> BatchTotals:
    results, failed = _open(files, plan.output), _open(files, plan.errors)
    try:
        known = None if options.restart else read_state(plan.state)
        program = _program(client, options, known)
        with bars.phase("reading", None):
            given = BatchInput.read(path, plan.source_format, program.signature, options.reading)
        for destination in (plan.output, plan.errors):
            refuse_unwritable(destination.format, given.survey.columns)
        _show_columns(given)
        ordered = options.ordered or plan.has_tables or bool(given.others)
        wanted = BatchState(
            "", program.name, program.version, given.survey.sha256, ordered,
            options=options.reading.recorded(plan.source_format),
        )  # fmt: skip
        if known is not None:
            _check_state(known, wanted, plan)
        elif not options.restart:
            _refuse_taken(plan, results, failed)
        limit = _cost_limit(client, program, given, options, known, bars)
        if options.restart:
            results.clear()
            failed.clear()
        state = known or replace(wanted, batch_id=str(new_batch_id()))
        if limit is not None:
            state = replace(state, row_usd=limit.mean_usd)
        write_state(plan.state, state)
    except BaseException:
        results.abandon()
        failed.abandon()
        raise
    run = BatchRun(client, program, given, state, plan, results, failed)
    run.recover()
    _follow(run, state, plan, options, limit, bars)
    run.write_tables()
    totals = run.totals()
    if not totals.failed and not totals.left:
        for destination, lines in ((plan.output, results), (plan.errors, failed)):
            if destination.is_table:
                lines.discard()
    return totals


def _follow(
    run: BatchRun, state: BatchState, plan: BatchFiles, options: BatchOptions, limit: CostLimit | None,
    bars: ProgressBars,
) -> None:  # fmt: skip
    """Submit what is not submitted, and write every result."""
    try:
        if state.submitted or limit is None:
            if not state.submitted:
                run.submit(bars, options.intake)
                write_state(plan.state, replace(state, submitted=True))
            run.collect(bars)
        elif run.submit_within(bars, options.intake, limit):
            write_state(plan.state, replace(state, submitted=True))
    except KeyboardInterrupt:
        echo(_interrupted_text(state.batch_id, plan), err=True)
        raise


def _interrupted_text(batch_id: str, plan: BatchFiles) -> str:
    """What goes on after an interruption, and the commands for it. A stream has no file to continue with."""
    cancel = f"`dspex cancel --batch {batch_id}`"
    if not plan.output.is_stream:
        return f"the batch continues: run the same command to follow it, or {cancel}"
    return (
        f"the rows that were submitted continue as batch {batch_id}, but {plan.output.path} cannot be continued: the "
        "same command begins another batch, which is paid for again. `dspex batches` shows the progress, `dspex list "
        f"--batch {batch_id}` the executions, `dspex show ID` the result of one; {cancel} cancels them"
    )


def _program(client: Client, options: BatchOptions, known: BatchState | None) -> Program:
    """The version that an earlier run began with, or the current one."""
    if known is not None and known.program == options.program:
        return client.program(known.program, known.version)
    return client.program(options.program)


def _cost_limit(
    client: Client, program: Program, given: BatchInput, options: BatchOptions, known: BatchState | None,
    bars: ProgressBars,
) -> CostLimit | None:  # fmt: skip
    """The limit of ``--max-cost``, after the user agreed to it; an estimate that was agreed to is not made again."""
    if options.max_cost is None:
        return None
    if known is not None and known.row_usd is not None:
        return CostLimit(options.max_cost, known.row_usd)
    count = options.sample or SAMPLE_ROWS
    estimate = run_sample(client, program, given, count, bars, int(options.intake["priority"]))
    if estimate is None:
        return None
    echo(estimate_text(estimate), err=True)
    cost = confirmed_cost(estimate, options.max_cost, yes=options.yes)
    return CostLimit(options.max_cost, cost.value / estimate.rows)


def _show_columns(given: BatchInput) -> None:
    if given.others:
        shown = ", ".join(given.others[:20]) + (", …" if len(given.others) > 20 else "")
        echo(f"columns that are no inputs, carried through: {shown}", err=True)


def _open(files: ExitStack, destination: Destination) -> Lines:
    """Where the lines of an output are recorded. A file is locked: another `dspex batch` on it is refused."""
    if destination.is_table and destination.path.exists() and not os.access(destination.path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(destination.path))
    lines: Lines
    if destination.lines is not None:
        lines = LineFile(destination.lines)
    elif destination.path in (STANDARD, STANDARD_ERROR):
        stream = sys.stdout if destination.path == STANDARD else sys.stderr
        lines = LineStream(destination.path, stream.buffer)
    else:
        file = files.enter_context(destination.path.open("wb", buffering=0))
        lines = LineStream(destination.path, cast("BinaryIO", file))
    files.callback(lines.close)
    return lines


def _refuse_taken(plan: BatchFiles, results: Lines, failed: Lines) -> None:
    """Raise DspexError for an output that is there already, and is not of a batch that can be continued."""
    taken = [each.path for each in (results, failed) if not each.is_empty]
    outputs = (plan.output, plan.errors)
    taken += [each.path for each in outputs if each.is_table and not each.is_stream and each.path.exists()]
    if taken:
        raise refuse(f"{taken[0]} exists and belongs to no batch that can be continued: use --restart to overwrite it")


def _check_state(known: BatchState, wanted: BatchState, plan: BatchFiles) -> None:
    """Raise DspexError if the earlier run was begun with something else."""
    changed = []
    if known.program != wanted.program:
        changed.append(f"its program is {known.program!r}")
    if known.input_sha256 != wanted.input_sha256:
        changed.append(f"{plan.source} has changed")
    if known.ordered != wanted.ordered:
        changed.append(f"it was begun {'with' if known.ordered else 'without'} --ordered")
    if known.options != wanted.options:
        changed.append(f"it was begun with {json.dumps(known.options)}, now {json.dumps(wanted.options)}")
    if changed:
        raise refuse(
            f"the batch of {plan.state} cannot be continued: {'; '.join(changed)}. Use --restart to begin a new one"
        )


def _print_json(data: Any, *, err: bool) -> None:
    click.echo(json.dumps(data, ensure_ascii=False, indent=2), err=err)
