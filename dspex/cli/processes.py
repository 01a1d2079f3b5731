"""``dspex worker``, ``beat`` and ``flower``: the long-running processes, each the one Celery has, configured.

They replace this process, so that signals and exit codes are theirs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec

import click

from dspex.errors import ConfigurationError
from dspex.settings import Settings

__all__ = ["beat", "flower", "worker"]


@click.command()
@click.option("--concurrency", type=click.IntRange(1, 10_000), help="Executions in flight  [DSPEX_WORKER_CONCURRENCY].")
@click.option("--loglevel", default="INFO", show_default=True)
@click.option("--name", default=None, help="The worker's name in Flower  [dspex-PID@HOST].")
def worker(concurrency: int | None, loglevel: str, name: str | None) -> None:
    """Run a worker until SIGTERM or Ctrl-C: it finishes or hands back what it runs, within DSPEX_GRACE_SECONDS.

    Example: dspex worker --concurrency 100
    """
    if concurrency is not None:
        os.environ["DSPEX_WORKER_CONCURRENCY"] = str(concurrency)
    node = name or f"dspex-{os.getpid()}@%h"
    _celery("worker", ["--loglevel", loglevel, "--hostname", node, "--without-mingle", "--without-gossip"], "worker")


@click.command()
@click.option("--loglevel", default="INFO", show_default=True)
def beat(loglevel: str) -> None:
    """Run beat: it asks a worker to check the health every DSPEX_HEALTH_INTERVAL_SECONDS. Run one.

    Example: dspex beat
    """
    _celery("beat", ["--loglevel", loglevel, "--schedule", os.devnull, "--pidfile", ""], "worker")


@click.command()
@click.option("--port", default=5555, show_default=True, type=click.IntRange(1, 65535))
@click.option("--address", default="127.0.0.1", show_default=True, help="The address to listen on.")
def flower(port: int, address: str) -> None:
    """Run Flower, the dashboard of workers and tasks.

    It has no password of its own yet: it listens on this machine only, unless you say otherwise.

    Example: dspex flower --port 5555
    """
    options = [f"--port={port}", f"--address={address}", "--max_tasks=10000", "--logging=warning"]
    _celery("flower", options, "flower")


def _celery(command: str, options: Sequence[str], extra: str) -> None:
    package = "flower" if extra == "flower" else "celery"
    if find_spec(package) is None:
        raise ConfigurationError(f"{package} is not installed: pip install 'dspex[{extra}]'")
    Settings.load().backends()  # wrong settings are reported here, not in the middle of Celery's start
    arguments = [sys.executable, "-m", "celery", "--app", "workers.app", command, *options]
    os.execv(sys.executable, arguments)  # noqa: S606
