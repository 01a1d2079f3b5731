"""``dspex demo``: run example programs with a real model on the embedded stack."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from dspex.cli.executions.show_command import timeline
from dspex.cli.output.console_tables import console as new_console
from dspex.cli.output.one_line import one_line
from dspex.cli.processes.stack_display import StackProgress
from dspex.cli.processes.up_command import FLOWER_PORT, flower_port
from dspex.client.batch import Batch
from dspex.client.client import Client
from dspex.client.execution import Execution
from dspex.embedded import read_stack
from dspex.embedded.demo.demo_programs import QUESTION, capital, reviews
from dspex.embedded.embedded_stack import EmbeddedStack, stop_on_signals
from dspex.errors import ExecutionFailed
from dspex.program.program import LOCAL_MODEL
from dspex.settings import Settings
from dspex.store.lifecycle.status import Status

__all__ = ["demo"]

OPENAI_MODEL = "openai/gpt-4o-mini"
TIMEOUT_SECONDS = 240


@click.command()
def demo() -> None:
    """Ask a question, classify a file of customer reviews, and show the audit trail.

    The demo uses the embedded stack of DSPEX_HOME, and starts it unless `dspex up` is running. The model is
    DSPEX_DEMO_MODEL if set, else OpenAI's if OPENAI_API_KEY is set, else the small model that comes with DSPex.

    Example: dspex demo
    """
    settings = Settings.load(database_url=None, broker_url=None)
    console = new_console()
    model, why = _choose_model(settings)
    console.print(f"[bold]DSPex demo[/]  model [bold]{model}[/], because {why}\n")
    began = time.monotonic()
    with stop_on_signals(), _stack(console, settings), Client(settings) as client:
        started = time.monotonic()
        question = _ask(console, client, model)
        asked = time.monotonic()
        _classify(console, client, model)
        classified = time.monotonic()
        console.print(timeline(question.audit_trail, width=console.width))
        _closing(console, question, (started - began, asked - started, classified - asked))


def _choose_model(settings: Settings) -> tuple[str, str]:
    if settings.demo_model:
        return settings.demo_model, "DSPEX_DEMO_MODEL is set"
    if os.environ.get("OPENAI_API_KEY"):
        return OPENAI_MODEL, "OPENAI_API_KEY is set (DSPEX_DEMO_MODEL=smollm2 for the local one)"
    return LOCAL_MODEL, "no OPENAI_API_KEY is set: SmolLM2-135M, served on this machine"


@contextmanager
def _stack(console: Console, settings: Settings) -> Iterator[None]:
    """Use the stack that is running at this home, or start one."""
    if read_stack(settings.home) is not None:
        console.print(f"Using the stack that is running at {settings.home}\n")
        yield
        return
    console.print(f"Starting the embedded stack at {settings.home}")
    stack = EmbeddedStack(
        settings.home,
        flower_port=flower_port(),
        worker_grace=settings.grace_seconds + 10,
        durable=settings.profile.durable,
        on_progress=StackProgress(console),
    )
    with stack:
        console.print()
        yield
        console.print("\nStopping the stack; its data is kept.")


def _ask(console: Console, client: Client, model: str) -> Execution:
    program = capital(model)
    client.deploy(program)
    with console.status("waiting for the model (a local model is loaded first)"):
        execution = client.submit(program, {"question": QUESTION})
        result = execution.result(timeout=TIMEOUT_SECONDS)
    m = execution.metrics
    console.print(f"[bold]Q[/] {QUESTION}\n[bold]A[/] {escape(result.answer)}")
    console.print(
        f"  {m.execution_time_ms:,.0f} ms, {m.prompt_tokens}+{m.completion_tokens} tokens, {execution.id}\n",
        style="dim",
    )
    return execution


def _classify(console: Console, client: Client, model: str) -> None:
    program = reviews(model)
    client.deploy(program)
    rows = [json.loads(line) for line in (files("dspex.embedded.demo") / "reviews.jsonl").read_text().splitlines()]
    batch = client.submit_many(program, [{"review": row["review"]} for row in rows])
    console.print(
        f"{len(rows)} customer reviews: {len(batch)} enqueued, {len(batch.rejected)} rejected by validation\n"
    )
    finished = {execution.id: execution for execution in _watched(console, batch)}
    table, right, failed = _verdicts(batch, finished, rows)
    console.print(table)
    console.print("ms: from claim to result; all reviews run at once and share the model.", style="dim")
    wrong = len(batch) - right - len(failed)
    console.print(f"[bold]{right} of {len(batch)} labels are right.[/] {_wrong_labels(model, wrong)}")
    for rejected in batch.rejected:
        console.print(
            f"[yellow]row {rejected.index} was rejected[/] before any model call: {escape(str(rejected.error))}"
        )
    for execution in failed:
        console.print(f"[red]{execution.id} failed[/]: {escape(str(execution.error))}")
    console.print()


def _watched(console: Console, batch: Batch) -> Iterator[Execution]:
    columns = (TextColumn("  classifying"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(batch))
        for execution in batch.as_completed(timeout=TIMEOUT_SECONDS):
            progress.advance(task)
            yield execution


def _verdicts(
    batch: Batch, finished: Mapping[Any, Execution], rows: Sequence[Mapping[str, str]]
) -> tuple[Table, int, list[Execution]]:
    """The table, how many labels are right, and which executions failed."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 1, 0))
    table.add_column("review", overflow="fold", ratio=2)
    table.add_column("sentiment", no_wrap=True)
    table.add_column("summary", overflow="fold", ratio=3)
    table.add_column("ms", justify="right", no_wrap=True)
    table.add_column("tokens", justify="right", no_wrap=True)
    right, failed = 0, []
    for id, index in zip(batch.ids, batch.indexes, strict=True):
        execution, row = finished[id], rows[index]
        review, m = one_line(row["review"], 70), execution.metrics
        if execution.status is not Status.COMPLETED:
            failed.append(execution)
            table.add_row(review, Text(_why(execution), style="red"))
            continue
        result = execution.result()
        good = result.sentiment == row["sentiment"]
        right += good
        sentiment = Text.assemble(result.sentiment, (" ✔", "green") if good else (" ✘", "bold red"))
        tokens = f"{m.prompt_tokens}+{m.completion_tokens}"
        table.add_row(review, sentiment, one_line(result.summary, 110), f"{m.execution_time_ms:,.0f}", tokens)
    return table, right, failed


def _why(execution: Execution) -> str:
    try:
        execution.result(timeout=0)
    except ExecutionFailed as error:
        return error.code
    return str(execution.status)


def _wrong_labels(model: str, wrong: int) -> str:
    if not wrong:
        return ""
    excuse = ": it has only 135 million parameters, as its summaries show" if model == LOCAL_MODEL else ""
    return f"The model got {wrong} wrong (✘){excuse}."


def _closing(console: Console, question: Execution, seconds: tuple[float, float, float]) -> None:
    up, asked, classified = seconds
    console.print(
        f"Stack {up:.1f} s, question {asked:.1f} s (including loading the model), reviews {classified:.1f} s.",
        style="dim",
    )
    flower = f"usually http://127.0.0.1:{FLOWER_PORT}"
    dspex = "dspex" if shutil.which("dspex") else os.path.relpath(sys.argv[0])
    console.print("\n[bold]Try next[/]")
    for command, what in (
        (
            f"{dspex} up",
            f"run the stack until Ctrl-C, and open Flower, the dashboard, at the address it prints ({flower})",
        ),
        (f"{dspex} run capital question='What is the capital of Japan?'", "in another terminal, while it is up"),
        (f"{dspex} show {question.id}", "the timeline of an execution; `list` shows all executions"),
    ):
        console.print(f"  [bold cyan]{command}[/]\n      {what}", soft_wrap=True)
