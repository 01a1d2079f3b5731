"""``dspex run`` and ``dspex list``."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import click
from rich.text import Text

from dspex.cli.executions.stream_command import print_stream
from dspex.cli.output.console_tables import console, print_table
from dspex.cli.output.json_output import STATUS_STYLES, as_data, echo_json, json_option
from dspex.cli.output.time_options import since_option
from dspex.cli.shell_completion import program_names
from dspex.client.client import Client
from dspex.client.execution import Execution
from dspex.signatures import Signature
from dspex.store.lifecycle.status import Status

__all__ = ["list_command", "run"]

COLUMNS = ("id", "program", "status", "try", "submitted", "took", "error")
#: Fields whose value is taken as it is typed, even when it looks like JSON.
TEXT_TYPES = frozenset({"string", "enum", "atom", "model_output", "prompt_template"})


@click.command()
@click.argument("name", shell_complete=program_names)
@click.argument("pairs", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--timeout", type=float, default=None, help="How long to wait, in seconds; the execution goes on.")
@click.option("--priority", type=click.IntRange(0, 9), default=5, show_default=True, help="0 runs first.")
@click.option("--stream", is_flag=True, help="Print each field while the model writes it; with --json, each event.")
@json_option
def run(name: str, pairs: tuple[str, ...], timeout: float | None, priority: int, stream: bool, as_json: bool) -> None:
    """Execute a program and print its result. A value is text for a text field, and JSON for any other.

    \b
    Examples:
      dspex run simple_qa question="What is the capital of France?"
      dspex run triage ticket="It does not start" max_words=5 history='["hello"]' --stream
    """
    with Client() as client:
        signature = client.program(name).signature
        inputs = _inputs(signature, pairs)
        execution = client.submit(name, inputs, priority=priority, stream=stream)
        if stream:
            print_stream(execution, signature, timeout=timeout, as_json=as_json)
            return
        result = execution.result(timeout)
        encoded = client.program(name, execution.version).signature.encode("outputs", dict(result))
        if as_json:
            echo_json({**as_data(execution), "result": json.loads(encoded)})
            return
        for field, value in json.loads(encoded).items():
            click.echo(click.style(f"{field}: ", bold=True) + (value if isinstance(value, str) else json.dumps(value)))
        click.secho(f"{execution.id}  {execution.metrics.execution_time_ms:.0f} ms", dim=True, err=True)


@click.command("list")
@click.option("--program", shell_complete=program_names, help="Only this program's.")
@click.option(
    "--status", type=click.Choice([s.value for s in Status]), help="Only these; `failed` are the dead letters."
)
@since_option
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many.")
@json_option
def list_command(program: str | None, status: str | None, since: datetime | None, limit: int, as_json: bool) -> None:
    """List executions, the newest first.

    \b
    Examples:
      dspex list --status failed --since 2h
      dspex list --program simple_qa --limit 1000 --json
    """
    with Client() as client:
        found = client.list(program=program, status=status, since=since, limit=limit)
        if as_json:
            echo_json([as_data(execution) for execution in found])
            return
        if not found:
            click.echo("no executions")
            return
        print_table(console(), COLUMNS, map(_row, found), optional=("try", "took"))
        if paused := client.paused():
            for name, why in paused.items():
                click.secho(f"paused: {name} ({why}): `dspex resume {name}`", fg="yellow", err=True)


def _row(execution: Execution) -> tuple[str | Text, ...]:
    status, error = execution.status, execution.shown_error
    return (
        str(execution.id),
        execution.program,
        Text(status, style=STATUS_STYLES[status]),
        str(execution.attempts),
        _moment(execution.created_at),
        f"{execution.metrics.execution_time_ms:.0f} ms" if status.is_final else "",
        error.code if error else "",
    )


def _moment(at: datetime) -> str:
    today = at.date() == datetime.now(UTC).date()
    return f"{at:%H:%M:%S}" if today else f"{at:%Y-%m-%d}"


def _inputs(signature: Signature, pairs: tuple[str, ...]) -> dict[str, Any]:
    types = {field.name: field.type.name for field in signature.input_fields}
    inputs: dict[str, Any] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator:
            raise click.UsageError(f"{pair!r} is not KEY=VALUE")
        inputs[key] = value if types.get(key) in TEXT_TYPES else _json_or_text(value)
    return inputs


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value
