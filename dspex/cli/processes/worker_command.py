"""``dspex worker``."""

from __future__ import annotations

import os
import sys

import click

from dspex.cli.processes.replace_process import replace_process
from dspex.program.worker_package import LAUNCH
from dspex.settings import Settings

__all__ = ["worker"]

#: How long a worker may take after its grace period to hand back unfinished executions.
HAND_BACK_MARGIN_SECONDS = 60.0


@click.command()
@click.option("--processes", type=click.IntRange(1, 256), help="Worker processes  [DSPEX_WORKER_PROCESSES, 1].")
@click.option("--concurrency", type=click.IntRange(1, 10_000),
              help="Executions in flight in each process  [DSPEX_WORKER_CONCURRENCY, 200].")  # fmt: skip
@click.option("--loglevel", default="INFO", show_default=True, help="The log level: DEBUG, INFO, WARNING or ERROR.")
@click.option("--name", default=None, help="The worker's name in Flower  [dspex-PID@HOST].")
def worker(processes: int | None, concurrency: int | None, loglevel: str, name: str | None) -> None:
    """Run a worker until SIGTERM or Ctrl-C. It then finishes its executions within DSPEX_GRACE_SECONDS, and hands the
    others back.

    With several processes (use one for each core), or with DSPEX_WORKER_MAX_MEMORY_MB, DSPEX_WORKER_MAX_EXECUTIONS or
    DSPEX_PROGRAM_PACKAGES, a parent process restarts workers that die, without programs whose import ended them, and
    replaces those that reach a limit. --processes 1 runs without a parent.

    Example: dspex worker --processes 4 --concurrency 100
    """
    if concurrency is not None:
        os.environ["DSPEX_WORKER_CONCURRENCY"] = str(concurrency)
    settings = Settings.load()
    has_limits = settings.worker_max_memory_mb is not None or settings.worker_max_executions is not None
    size = processes or settings.worker_processes
    stem, _, host = (name or f"dspex-{os.getpid()}").partition("@")
    has_parent = size > 1 or (processes is None and (has_limits or bool(settings.program_packages)))
    node = f"{'{name}' if has_parent else stem}@{host or '%h'}"
    arguments = ["-m", "workers", "--loglevel", loglevel, "--hostname", node]
    if has_parent:
        patience = settings.grace_seconds + HAND_BACK_MARGIN_SECONDS
        fleet = ["--processes", str(size), "--name", stem, "--loglevel", loglevel]
        fleet += ["--patience-seconds", str(patience), "--silence-seconds", str(settings.watchdog_seconds)]
        arguments = ["-m", "workers.process.fleet", *fleet, "--", sys.executable, *LAUNCH, *arguments]
    replace_process(arguments, settings, extra="worker", calls_models=True)
