"""``dspex versions``, ``diff``, ``promote``, ``alias`` and ``rollout``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click
from rich.text import Text

from dspex.cli.output.console_tables import console, print_table
from dspex.cli.output.json_output import echo_json, json_option
from dspex.cli.output.number_options import NumberRange
from dspex.cli.output.plain_text import echo
from dspex.cli.shell_completion import program_names
from dspex.client.client import Client
from dspex.client.improvement.program_diff import Difference, program_diff
from dspex.program.improvement.rollout_guard import Guard
from dspex.store.improvement.program_versions import Version
from dspex.store.improvement.rollouts import Rollout

__all__ = ["alias", "diff", "promote", "rollout", "versions"]

COLUMNS = ("version", "deployed", "state", "aliases", "note")

_name = click.argument("name", shell_complete=program_names)


@click.command()
@_name
@click.option("--all", "candidates", is_flag=True, help="Also list the versions that optimisers tried.")
@json_option
def versions(name: str, candidates: bool, as_json: bool) -> None:
    """List the deployed versions of program NAME, the newest first, and its last rollouts.

    Example: dspex versions triage
    """
    with Client() as client:
        found, past = client.versions(name, candidates=candidates), client.rollouts(name)
    if as_json:
        echo_json({"versions": [asdict(each) for each in found], "rollouts": [_rollout_data(each) for each in past]})
        return
    print_table(console(), COLUMNS, map(_row, found), optional=("deployed",))
    for each in past[:3]:
        echo(_rollout_line(each), dim=True)


@click.command()
@_name
@click.argument("before")
@click.argument("after")
@json_option
def diff(name: str, before: str, after: str, as_json: bool) -> None:
    """Show what differs between two versions of program NAME: fields, instructions, demos, models and options. BEFORE
    and AFTER are versions or aliases.

    Example: dspex diff triage champion 0f3a5c6d7e8f9a0b
    """
    with Client() as client:
        found = program_diff(client.program(name, before), client.program(name, after))
    if as_json:
        echo_json([asdict(each) for each in found])
    elif not found:
        echo("the versions are the same")
    else:
        print_table(console(), ("part", before, after), map(_diff_row, found))
        for each in found:
            if each.breaks:
                echo(f"{each.part}: {each.breaks}", fg="yellow")


@click.command()
@_name
@click.argument("version")
@json_option
def promote(name: str, version: str, as_json: bool) -> None:
    """Make VERSION, a deployed version or an alias, the current version of program NAME. Executions that were submitted
    before keep their version.

    Example: dspex promote triage champion
    """
    with Client() as client:
        deployed = client.promote(name, version)
    if as_json:
        echo_json({"name": name, "version": deployed.program.version, "deployed_at": deployed.deployed_at})
    else:
        echo(f"{name}  {deployed.program.version} is the current version")


@click.command()
@_name
@click.argument("alias")
@click.argument("version")
def alias(name: str, alias: str, version: str) -> None:
    """Let ALIAS stand for VERSION of program NAME.

    Example: dspex alias triage champion 0f3a5c6d7e8f9a0b
    """
    with Client() as client:
        client.alias(name, alias, version)
    echo(f"{name}  {alias} is now {version}")


@click.command()
@_name
@click.argument("version", required=False)
@click.option(
    "--percent",
    type=NumberRange(0, 100, min_open=True),
    default=10,
    show_default=True,
    help="The share of new submits that goes to the version.",
)
@click.option("--max-error-rate", type=NumberRange(0, 1), help="End it when a larger share of executions fails.")
@click.option("--min-score", type=float, help="End it when the mean score of feedback is lower.")
@click.option(
    "--max-cost-ratio",
    type=NumberRange(0, min_open=True),
    help="End it when an execution costs more than this multiple of one with the current version.",
)
@click.option("--end", is_flag=True, help="End the rollout that is under way.")
@json_option
def rollout(
    name: str, version: str | None, percent: float, max_error_rate: float | None, min_score: float | None,
    max_cost_ratio: float | None, end: bool, as_json: bool,
) -> None:  # fmt: skip
    """Send a share of the new submits of program NAME to VERSION, a deployed version or an alias.

    \b
    Examples:
      dspex rollout triage challenger --percent 10 --max-error-rate 0.02
      dspex rollout triage --end
    """
    if (version is None) != end:
        raise click.UsageError("give a VERSION to begin a rollout, or --end to end it")
    with Client() as client:
        if version is None:
            found = client.end_rollout(name)
        else:
            guard = Guard(max_error_rate=max_error_rate, min_score=min_score, max_cost_ratio=max_cost_ratio)
            found = client.rollout(name, version, percent=percent, guard=guard)
    if as_json:
        echo_json(None if found is None else _rollout_data(found))
    else:
        echo(f"no rollout of {name} is under way" if found is None else _rollout_line(found))


def _row(each: Version) -> tuple[str | Text, ...]:
    state = "current" if each.current else "candidate" if each.candidate else ""
    if each.rollout_percent is not None:
        state = f"gets {each.rollout_percent:g} % of submits"
    return (
        each.version,
        f"{each.deployed_at:%Y-%m-%d %H:%M}",
        Text(state, style="green" if each.current else "yellow"),
        ", ".join(each.aliases),
        each.note or "",
    )


def _diff_row(each: Difference) -> tuple[str, str, str]:
    return each.part, _shown(each.before), _shown(each.after)


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _rollout_line(each: Rollout) -> str:
    begun = f"rollout of {each.percent:g} % to {each.version} since {each.begun_at:%Y-%m-%d %H:%M}"
    return begun if each.ended_at is None else f"{begun}, ended {each.ended_at:%Y-%m-%d %H:%M}: {each.reason}"


def _rollout_data(each: Rollout) -> dict[str, Any]:
    return {**asdict(each), "guard": each.guard.content}
