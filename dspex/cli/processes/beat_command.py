"""``dspex beat``."""

from __future__ import annotations

import os

import click

from dspex.cli.processes.replace_process import replace_process
from dspex.settings import Settings

__all__ = ["beat"]


@click.command()
@click.option("--loglevel", default="INFO", show_default=True, help="The log level: DEBUG, INFO, WARNING or ERROR.")
def beat(loglevel: str) -> None:
    """Run beat, which schedules health checks, alerts and upkeep on the workers. Run one beat for a deployment.

    Example: dspex beat
    """
    options = ["--loglevel", loglevel, "--schedule", os.devnull, "--pidfile", ""]
    arguments = ["-m", "celery", "--app", "workers.app", "beat", *options]
    replace_process(arguments, Settings.load(), extra="worker", calls_models=False)
