"""``dspex batches``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click
from rich.text import Text

from dspex.cli.known_names import require_known
from dspex.cli.output.console_tables import console, print_table
from dspex.cli.output.json_output import echo_json, json_option
from dspex.cli.output.plain_text import echo
from dspex.cli.output.selection_options import internal_option
from dspex.cli.shell_completion import program_names
from dspex.client.batch import BatchSummary
from dspex.client.client import Client
from dspex.operations.report.dollars import dollars

__all__ = ["batches"]

COLUMNS = ("id", "program", "begun", "done", "failed", "cost")


@click.command()
@click.option("--program", shell_complete=program_names, help="Only batches of this program.")
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="The largest number of batches."
)
@internal_option
@json_option
def batches(program: str | None, limit: int, internal: bool, as_json: bool) -> None:
    """List batches, newest first: how many of their executions are done, how many failed, and their cost so far.

    \b
    Examples:
      dspex batches --program simple_qa
      dspex list --batch 0193e0f2-5d0a-7c31-a1f4-3b0f00000000 --status failed
      dspex retry --batch 0193e0f2-5d0a-7c31-a1f4-3b0f00000000
    """
    with Client() as client:
        found = client.batches(program=program, limit=limit, internal=internal)
        if not found:
            require_known(client, program=program)
    if as_json:
        echo_json([_data(batch) for batch in found])
    elif not found:
        echo("no batches")
    else:
        print_table(console(), COLUMNS, map(_row, found), optional=("begun",))


def _row(batch: BatchSummary) -> tuple[str | Text, ...]:
    progress = batch.progress
    return (
        str(batch.id),
        batch.program,
        f"{batch.begun_at:%Y-%m-%d %H:%M}",
        f"{progress.finished:,} of {progress.total:,}",
        Text(f"{progress.failed:,}", style="red" if progress.failed else ""),
        dollars(progress.cost_usd, progress.unpriced),
    )


def _data(batch: BatchSummary) -> dict[str, Any]:
    return {"id": batch.id, "program": batch.program, "begun_at": batch.begun_at, **asdict(batch.progress)}
