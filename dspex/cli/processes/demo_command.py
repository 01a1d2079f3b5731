"""``dspex demo``: a program on a real model, and a worker that is killed while it runs executions."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dspex.cli.executions.show_command import timeline
from dspex.cli.output.console_tables import console as new_console
from dspex.cli.output.one_line import one_line
from dspex.cli.processes.replace_process import require_stack
from dspex.cli.processes.serve_command import SERVE_PORT
from dspex.cli.processes.stack_display import StackProgress
from dspex.client.batch import Batch
from dspex.client.client import Client
from dspex.client.execution import Execution
from dspex.embedded.application_process import ApplicationProcess
from dspex.embedded.bundled_model import model_path
from dspex.embedded.demo.demo_programs import CALLS_EACH, FIRST, PACKAGE, REVIEWS, DemoReview, review_desk
from dspex.embedded.embedded_stack import EmbeddedStack, stop_on_signals
from dspex.embedded.stack_progress import StackStep, StepState
from dspex.program.program import LOCAL_MODEL
from dspex.settings import Settings
from dspex.store.lifecycle.status import Status

__all__ = ["demo"]

OPENAI_MODEL = "openai/gpt-4o-mini"
TUTORIAL = "docs/tutorial/first-execution.md"
TIMEOUT_SECONDS = 240


@click.command()
def demo() -> None:
    """Read reviews with a model, kill a worker in the middle, and show that nothing is lost or paid for twice.

    The demo runs a stack of its own, with two workers, in the directory demo of DSPEX_HOME. The model is
    DSPEX_DEMO_MODEL if set, else OpenAI's if OPENAI_API_KEY is set, else the small model that comes with DSPex.

    Example: dspex demo
    """
    settings = Settings.load(database_url=None, broker_url=None)
    settings = Settings.load(database_url=None, broker_url=None, home=settings.home / "demo")
    console = new_console()
    model, why = _choose_model(settings)
    require_stack(settings)
    if model == LOCAL_MODEL:
        model_path()  # raises if it is not installed: before anything is started
    console.print(f"[bold]DSPex demo[/]  model [bold]{model}[/], because {why}\n")
    with stop_on_signals(), StackProgress(console) as progress:
        DemoRun(console, progress, settings, model).run()


def _choose_model(settings: Settings) -> tuple[str, str]:
    if settings.demo_model:
        return settings.demo_model, "DSPEX_DEMO_MODEL is set"
    if os.environ.get("OPENAI_API_KEY"):
        return OPENAI_MODEL, "OPENAI_API_KEY is set (DSPEX_DEMO_MODEL=smollm2 for the local one)"
    return LOCAL_MODEL, "no OPENAI_API_KEY is set: SmolLM2-135M, served on this machine"


class DemoRun:
    """One run of the demo."""

    def __init__(self, console: Console, progress: StackProgress, settings: Settings, model: str) -> None:
        self._console = console
        self._progress = progress
        self._settings = settings
        self._program = review_desk(model)
        self._workers: Sequence[ApplicationProcess] = ()
        #: Whether the demo has killed a worker, whose end is not reported as a failure.
        self._killed = False

    def run(self) -> None:
        self._console.print(f"Starting Postgres, Redis and two workers in {self._settings.home}", soft_wrap=True)
        began = time.monotonic()
        stack = EmbeddedStack(
            self._settings.home,
            workers=2,
            flower=False,
            beat=False,
            worker_grace=self._settings.grace_seconds + 10,
            durable=self._settings.profile.durable,
            worker_environment={"DSPEX_PROGRAM_PACKAGES": PACKAGE},
            before_workers=self._deploy,  # so that they load it while they start
            serve_model=self._program.model == LOCAL_MODEL,
            on_progress=self._report,
        )
        with stack, Client(self._settings) as client:
            self._workers = stack.applications
            self._console.print(f"The stack is up after {time.monotonic() - began:.1f} s.\n")
            self._answer_one(client)
            executions = self._answer_many(client)
            self._explain(executions)
            self._console.print("\nStopping the stack; its data is kept.")
        self._close()

    def _report(self, step: StackStep) -> None:
        expected = self._killed and step.name.startswith("worker") and step.state is StepState.FAILED
        if not expected:
            self._progress(step)

    def _deploy(self) -> None:
        with Client(self._settings) as client:
            client.deploy(self._program)

    def _answer_one(self, client: Client) -> None:
        self._console.print(f"[bold]1. One review[/], {CALLS_EACH} model calls")
        with self._progress.during("waiting for the model"):
            execution = client.submit(self._program, {"review": FIRST.text})
            execution.result(timeout=TIMEOUT_SECONDS)
        self._console.print(f"  {FIRST.text}")
        self._console.print(_outcome(execution, FIRST), f"  {execution.metrics.execution_time_ms:,.0f} ms\n")

    def _answer_many(self, client: Client) -> Sequence[Execution]:
        self._console.print(f"[bold]2. {len(REVIEWS)} reviews at once, and a worker is killed[/]")
        batch = client.submit_many(self._program, [{"review": review.text} for review in REVIEWS])
        finished = []
        with self._progress.during(f"{len(batch)} executions run on two workers"):
            for execution in self._finished(client, batch):
                finished.append(execution)
                review = REVIEWS[execution.batch_index or 0]
                again = f"  attempt {execution.attempts}" if execution.attempts > 1 else ""
                line = Text.assemble(
                    f"  {len(finished):2} of {len(batch)} ", _outcome(execution, review), (again, "yellow"), "  "
                )
                line.append(one_line(review.text, max(self._console.width - line.cell_len, 1)), style="dim")
                self._console.print(line)
        return finished

    def _finished(self, client: Client, batch: Batch) -> Iterator[Execution]:
        """The executions as they finish; after the first one, the busier worker is killed."""
        for execution in batch.as_completed(timeout=TIMEOUT_SECONDS):
            yield execution
            if not self._killed:
                self._kill_a_worker(client)

    def _kill_a_worker(self, client: Client) -> None:
        running = {worker["pid"]: worker["running"] for worker in client.workers()}
        busiest = max(self._workers, key=lambda worker: int(running.get(worker.pid, 0)))
        pid, self._killed = busiest.pid, True
        busiest.kill()
        self._console.print(
            f"  [bold red]✘ SIGKILL[/] to {busiest.name} (process {pid}). The other worker runs its executions again "
            f"once its lease of {self._settings.lease_seconds:g} s has run out."
        )

    def _explain(self, executions: Sequence[Execution]) -> None:
        metrics = [execution.metrics for execution in executions]
        completed = sum(execution.status is Status.COMPLETED for execution in executions)
        again = [execution for execution in executions if execution.attempts > 1]
        replayed = sum(each.replayed_lm_calls for each in metrics)
        calls = sum(each.lm_calls for each in metrics)
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 2))
        table.add_row("completed", f"{completed} of {len(executions)}, each with one outcome")
        table.add_row("interrupted", f"{len(again)} of them, finished by another attempt")
        table.add_row(
            "replayed", f"{replayed} answers that were there came from Postgres: not asked again, not paid again"
        )
        table.add_row("model calls", f"{calls} answers for {len(executions)} × {CALLS_EACH} questions")
        table.add_row("cost", _cost(executions, str(self._program.model)))
        self._console.print()
        self._console.print(table)
        if again:
            shown = max(again, key=lambda execution: execution.metrics.replayed_lm_calls)
            self._console.print(f"\n[bold]3. The audit trail of one of them[/]: {REVIEWS[shown.batch_index or 0].text}")
            self._console.print(timeline(shown.audit_trail, width=self._console.width))

    def _close(self) -> None:
        dspex = "dspex" if shutil.which("dspex") else os.path.relpath(sys.argv[0])
        package = Path(__file__).parents[2]
        module = package / "embedded" / "demo" / "review_desk.py"
        if module.is_relative_to(Path.cwd()):
            module = module.relative_to(Path.cwd())
        self._console.print("\n[bold]Next[/]")
        home = self._settings.home
        home = home.relative_to(Path.cwd()) if home.is_relative_to(Path.cwd()) else home
        up = f"DSPEX_HOME={shlex.quote(str(home))} DSPEX_PROGRAM_PACKAGES={PACKAGE} {dspex} up"
        # A wheel has no pages.
        own = TUTORIAL if (package.parent / TUTORIAL).exists() else f"{dspex} init my_project"
        for what, where in (
            (up, f"the same stack again: see them all at http://127.0.0.1:{SERVE_PORT}"),
            (own, "a program of your own, in 15 minutes"),
            (str(module), "the program of this demo"),
        ):
            self._console.print(f"  [bold cyan]{what}[/]  {where}", soft_wrap=True)


def _outcome(execution: Execution, review: DemoReview) -> Text:
    """What the model answered; an answer that a person would not give is marked."""
    if execution.status is not Status.COMPLETED:
        return Text(f"{execution.status}: {execution.shown_error}", style="red")
    result = execution.result(timeout=0)
    return Text.assemble(
        "  ", _judged(result.sentiment, review.sentiment), ", ", _judged(result.product, review.product),
        ", ", _judged(result.customer, review.customer),
    )  # fmt: skip


def _judged(answer: str, expected: str) -> tuple[str, str]:
    right = answer.strip().lower() == expected.lower()
    return (answer, "bold green") if right else (f"{answer} (wrong)", "bold red")


def _cost(executions: Sequence[Execution], model: str | None) -> str:
    metrics = [execution.metrics for execution in executions]
    tokens = f"{sum(m.prompt_tokens for m in metrics):,} + {sum(m.completion_tokens for m in metrics):,} tokens"
    known = [m.cost_usd for m in metrics if m.cost_usd is not None]
    if model == LOCAL_MODEL:
        return f"{tokens} of a model on this machine, which costs nothing"
    return f"{tokens}, ${sum(known):.6f}" if len(known) == len(metrics) else f"{tokens}, price unknown"
