"""``dspex dataset``."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from dspex.cli.known_names import require_known
from dspex.cli.output.console_tables import console, print_table
from dspex.cli.output.json_output import echo_json, json_option
from dspex.cli.output.plain_text import echo
from dspex.cli.output.time_options import since_option
from dspex.cli.shell_completion import program_names
from dspex.client.client import Client
from dspex.client.improvement.dataset import Dataset

__all__ = ["dataset"]

#: The argument that each argument needs.
NEEDED = {
    "file": "name", "program": "name", "inputs": "file", "feedback": "program", "since": "program",
    "limit": "program", "version": "name", "output": "name",
}  # fmt: skip
COLUMNS = ("dataset", "version", "rows", "stored", "inputs", "labels")


@click.command()
@click.argument("name", required=False)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=False)
@click.option(
    "--input", "inputs", multiple=True, metavar="COLUMN", help="A column that is an input; others are labels."
)
@click.option(
    "--from",
    "program",
    metavar="PROGRAM",
    shell_complete=program_names,
    help="Make it of this program's executions, with corrected outputs as labels.",
)
@click.option("--feedback", type=click.Choice(["any", "corrected"]), help="With --from: only executions with feedback.")
@since_option
@click.option(
    "--limit",
    type=click.IntRange(1, 1_000_000),
    default=10_000,
    show_default=True,
    help="With --from: the largest number of executions.",
)
@click.option("--version", metavar="VERSION", help="A version of the dataset, in place of the newest.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the rows to .jsonl.")
@json_option
def dataset(
    name: str | None, file: Path | None, inputs: tuple[str, ...], program: str | None, feedback: str | None,
    since: datetime | None, limit: int, version: str | None, output: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Store FILE (.jsonl .jsonl.gz .csv .tsv .parquet) as dataset NAME, show a stored dataset, or list all datasets.

    The same rows are the same version.

    \b
    Examples:
      dspex dataset tickets tickets.jsonl --input ticket
      dspex dataset tickets --from triage --feedback any --since 7d
      dspex dataset tickets -o tickets.jsonl
      dspex dataset
    """
    _check_arguments()
    if name is None:
        with Client() as client:
            _print(list(client.datasets()), as_json=as_json)
        return
    with Client() as client:
        if program is not None:
            chosen = client.list(program=program, feedback=feedback, since=since, limit=limit)
            if not chosen:
                require_known(client, program=program)
            found = client.dataset(name, executions=chosen)
        elif file is not None:
            found = client.dataset(name, file, inputs=inputs or None)
        else:
            found = client.dataset(name, version=version)
        if output is not None:
            found.to_jsonl(output)
        _print([found], as_json=as_json)


def _check_arguments() -> None:
    """Raise UsageError for arguments that exclude each other, and for one without the argument it is for."""
    context = click.get_current_context()
    labels = {each.name: each.opts[0] if isinstance(each, click.Option) else each.human_readable_name
              for each in context.command.params}  # fmt: skip
    given = {name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    for name, needed in NEEDED.items():
        if name in given and needed not in given:
            raise click.UsageError(f"{labels[name]} needs {labels[needed]}")
    if {"file", "program"} <= given:
        raise click.UsageError("give a FILE or --from PROGRAM")
    if "version" in given and given & {"file", "program"}:
        raise click.UsageError("--version is of a stored dataset: give it without FILE and --from")


def _print(found: list[Dataset], *, as_json: bool) -> None:
    if as_json:
        echo_json([_data(each) for each in found])
    elif not found:
        echo("no dataset is stored: `dspex dataset NAME FILE --input COLUMN`")
    else:
        print_table(console(), COLUMNS, map(_row, found), optional=("stored", "labels"))


def _row(each: Dataset) -> tuple[str, ...]:
    stored = f"{each.created_at:%Y-%m-%d %H:%M}"
    return each.name, each.version, f"{len(each):,}", stored, ", ".join(each.inputs), ", ".join(each.labels)


def _data(each: Dataset) -> dict[str, Any]:
    return {
        "name": each.name,
        "version": each.version,
        "rows": len(each),
        "inputs": list(each.inputs),
        "labels": list(each.labels),
        "created_at": each.created_at,
    }
