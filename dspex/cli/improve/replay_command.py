"""``dspex replay``."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

import click

from dspex.cli.output.console_tables import console, print_table
from dspex.cli.output.json_output import echo_json, json_option
from dspex.cli.output.number_options import NumberRange
from dspex.cli.output.plain_text import echo
from dspex.cli.output.time_options import since_option
from dspex.cli.shell_completion import program_names
from dspex.client.client import Client
from dspex.client.improvement.replayed_executions import ReplayFigures
from dspex.operations.report.dollars import dollars

__all__ = ["replay"]


@click.command()
@click.argument("name", shell_complete=program_names)
@click.argument("version")
@since_option
@click.option(
    "--limit", type=click.IntRange(1, 100_000), default=500, show_default=True, help="The largest number of executions."
)
@click.option("--budget", type=NumberRange(0, min_open=True), metavar="USD", help="What new model calls may cost.")
@json_option
def replay(name: str, version: str, since: datetime | None, limit: int, budget: float | None, as_json: bool) -> None:
    """Execute the recorded inputs of completed executions of program NAME with VERSION, a version or an alias, and show
    what changes. Recorded answers to equal requests are used, and not paid for again.

    Example: dspex replay triage challenger --since 7d
    """
    with Client() as client:
        found = client.replay(name, version=version, since=since, limit=limit, budget_usd=budget)
        echo(f"replay {found.id}: {len(found):,} executions", dim=True, err=True)
        figures = found.wait().figures
    if as_json:
        echo_json({"id": found.id, **asdict(figures)})
    else:
        print_table(console(), ("figure", "recorded", version), _rows(figures))
        for field, count in figures.by_field.items():
            echo(f"{field}: {count:,} of {figures.finished - figures.not_run:,} differ")


def _rows(figures: ReplayFigures) -> list[tuple[str, str, str]]:
    cost, tokens, times = figures.cost_usd, figures.tokens, figures.execution_time_ms
    recorded, now = map(dollars, cost, figures.unpriced)
    paid = dollars(figures.paid_usd, figures.paid_unpriced)
    not_run = f", {figures.not_run:,} not run" if figures.not_run else ""
    return [
        (
            "executions",
            f"{figures.finished:,}",
            f"{figures.changed:,} changed, {figures.fails_now:,} fail now{not_run}",
        ),
        ("cost", recorded, f"{now}, of which {paid} were paid now"),
        ("tokens", f"{tokens[0]:,}", f"{tokens[1]:,}"),
        ("run time", f"{times[0]:,.0f} ms", f"{times[1]:,.0f} ms"),
    ]
