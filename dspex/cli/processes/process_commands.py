"""``dspex worker``, ``beat`` and ``flower``: the long-running processes, each the one Celery has, configured.

They replace this process, so that signals and exit codes are theirs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import NoReturn

import click

from dspex.errors import ConfigurationError
from dspex.settings import Settings
from dspex.settings.flower_settings import flower_faults

__all__ = ["beat", "flower", "worker"]


#: A worker needs so long, beyond its grace period, to hand back what it did not finish.
HAND_BACK_SECONDS = 60.0


@click.command()
@click.option("--processes", type=click.IntRange(1, 256), help="Worker processes  [DSPEX_WORKER_PROCESSES, 1].")
@click.option("--concurrency", type=click.IntRange(1, 10_000),
              help="Executions in flight in each process  [DSPEX_WORKER_CONCURRENCY, 200].")  # fmt: skip
@click.option("--loglevel", default="INFO", show_default=True, help="How much it logs: DEBUG, INFO, WARNING or ERROR.")
@click.option("--name", default=None, help="The worker's name in Flower  [dspex-PID@HOST].")
def worker(processes: int | None, concurrency: int | None, loglevel: str, name: str | None) -> None:
    """Run a worker until SIGTERM or Ctrl-C: it finishes or hands back what it runs, within DSPEX_GRACE_SECONDS.

    With several processes (one for each core), or with DSPEX_WORKER_MAX_MEMORY_MB or DSPEX_WORKER_MAX_EXECUTIONS, a
    parent keeps as many running: it starts again what dies, and replaces what is worn out. With --processes 1 there
    is no parent in any case.

    Example: dspex worker --processes 4 --concurrency 100
    """
    if concurrency is not None:
        os.environ["DSPEX_WORKER_CONCURRENCY"] = str(concurrency)
    settings = Settings.load()
    wears = settings.worker_max_memory_mb is not None or settings.worker_max_executions is not None
    size = processes or settings.worker_processes
    stem, _, host = (name or f"dspex-{os.getpid()}").partition("@")
    has_parent = size > 1 or (processes is None and wears)
    node = f"{'{name}' if has_parent else stem}@{host or '%h'}"
    command = [sys.executable, "-m", "workers", "--loglevel", loglevel, "--hostname", node]
    if has_parent:
        patience = settings.grace_seconds + HAND_BACK_SECONDS
        fleet = ["--processes", str(size), "--name", stem, "--patience-seconds", str(patience), "--loglevel", loglevel]
        command = [sys.executable, "-m", "workers.process.fleet", *fleet, "--", *command]
    _become(command, settings, extra="worker")


@click.command()
@click.option("--loglevel", default="INFO", show_default=True, help="How much it logs: DEBUG, INFO, WARNING or ERROR.")
def beat(loglevel: str) -> None:
    """Run beat: it asks a worker to check the health every DSPEX_HEALTH_INTERVAL_SECONDS. Run one.

    Example: dspex beat
    """
    options = ["--loglevel", loglevel, "--schedule", os.devnull, "--pidfile", ""]
    _become([sys.executable, "-m", "celery", "--app", "workers.app", "beat", *options], Settings.load(), extra="worker")


@click.command()
@click.option("--port", default=5555, show_default=True, type=click.IntRange(1, 65535), help="The port to listen on.")
@click.option("--address", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--url-prefix", metavar="PATH", help="The path that a proxy serves it under, as in https://host/flower/.")
def flower(port: int, address: str, url_prefix: str | None) -> None:
    """Run Flower, the dashboard of workers and tasks.

    It asks for DSPEX_FLOWER_USER and DSPEX_FLOWER_PASSWORD. Without a password it is for this machine only and cannot
    change anything, and in production it does not start.

    \b
    Examples:
      dspex flower --port 5555
      dspex flower --address 0.0.0.0 --url-prefix flower
    """
    settings = Settings.load()
    if faults := flower_faults(settings, address, may_be_open=settings.profile.open_flower):
        raise ConfigurationError("; ".join(faults), errors=faults)
    command = [sys.executable, "-m", "workers.consume.flower", "--port", str(port), "--address", address]
    prefix = (url_prefix or "").strip("/")
    _become([*command, *(["--url-prefix", prefix] if prefix else [])], settings, extra="flower")


def _become(command: Sequence[str], settings: Settings, *, extra: str) -> NoReturn:
    """Replace this process. Raises what would be wrong with it here, not in the middle of its start."""
    package = "flower" if extra == "flower" else "celery"
    if find_spec(package) is None:
        raise ConfigurationError(f"{package} is not installed: pip install 'dspex[{extra}]'")
    settings.backends()
    os.execv(sys.executable, list(command))  # noqa: S606
