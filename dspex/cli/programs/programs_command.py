"""``dspex programs``."""

from __future__ import annotations

from typing import Any

import click
from rich.text import Text

from dspex.cli.output.console_tables import console, print_table
from dspex.cli.output.json_output import echo_json, json_option
from dspex.cli.output.plain_text import echo
from dspex.cli.output.selection_options import internal_option
from dspex.client.client import Client
from dspex.operations.report.dollars import dollars
from dspex.store.programs import ProgramSummary

__all__ = ["programs"]

COLUMNS = ("program", "version", "deployed", "queued", "running", "spent", "state", "model")


@click.command()
@internal_option
@json_option
def programs(internal: bool, as_json: bool) -> None:
    """List the deployed programs: their version, how many of their executions are queued and running, what they spent
    of their budget, whether they are paused, and their model.

    Example: dspex programs
    """
    with Client() as client:
        found = client.programs(internal=internal)
    if as_json:
        echo_json([_data(each) for each in found])
    elif not found:
        echo("no program is deployed: `dspex deploy FILE`")
    else:
        print_table(console(), COLUMNS, map(_row, found), optional=("deployed", "version", "spent"))


def _row(each: ProgramSummary) -> tuple[str | Text, ...]:
    paused = each.paused_at is not None
    return (
        each.name,
        each.version,
        f"{each.deployed_at:%Y-%m-%d %H:%M}",
        f"{each.queued:,}",
        f"{each.running:,}",
        _spent(each),
        Text(f"paused: {each.paused_reason}" if paused else "active", style="yellow" if paused else ""),
        Text("cannot be read here", style="red") if each.program is None else _model(each),
    )


def _spent(each: ProgramSummary) -> str:
    if each.spent_usd is None or each.program is None:
        return ""
    return f"{dollars(each.spent_usd)} of {dollars(each.program.limits.max_cost_usd)}"


def _model(each: ProgramSummary) -> str:
    """The model, or the adapters of a program without one."""
    assert each.program is not None
    return str(each.program.model or ", ".join(each.program.adapters))


def _data(each: ProgramSummary) -> dict[str, Any]:
    program = each.program
    return {
        "name": each.name,
        "version": each.version,
        "readable": program is not None,
        "model": program and program.model,
        "adapters": program and list(program.adapters),
        "deployed_at": each.deployed_at,
        "paused_at": each.paused_at,
        "paused_reason": each.paused_reason,
        "queued": each.queued,
        "running": each.running,
        "spent_usd": each.spent_usd,
        "max_cost_usd": program and program.limits.max_cost_usd,
    }
