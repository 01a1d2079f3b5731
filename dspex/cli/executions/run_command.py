"""``dspex run``."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

import click

from dspex.cli.executions.stream_command import following, print_stream
from dspex.cli.output.json_output import echo_json, json_option
from dspex.cli.output.number_options import NumberRange
from dspex.cli.output.plain_text import echo
from dspex.cli.output.selection_options import by_name, webhook_option
from dspex.cli.shell_completion import program_names
from dspex.client.client import Client
from dspex.client.shown.execution_data import execution_data
from dspex.signatures import Signature
from dspex.signatures.types.type_registry import is_text

__all__ = ["run"]


@click.command()
@click.argument("name", shell_complete=program_names)
@click.argument("pairs", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--timeout",
    type=NumberRange(min=0),
    default=None,
    help="How many seconds to wait; the execution continues after it.",
)
@click.option("--priority", type=click.IntRange(0, 9), default=5, show_default=True, help="0 runs first.")
@webhook_option
@click.option("--stream", is_flag=True, help="Print each field while the model writes it; with --json, every event.")
@json_option
def run(
    name: str, pairs: tuple[str, ...], timeout: float | None, priority: int, webhook: str | None, stream: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Execute a program and print its result. The value of a text field is text, any other value is JSON.

    \b
    Examples:
      dspex run simple_qa question="What is the capital of France?"
      dspex run triage ticket="It does not start" max_words=5 history='["hello"]' --stream
    """
    with Client() as client:
        signature = client.program(name).signature
        inputs = _inputs(signature, pairs)
        execution = client.submit(name, inputs, priority=priority, webhook=webhook, stream=stream)
        if stream:
            print_stream(execution, signature, timeout=timeout, as_json=as_json)
            return
        with following(execution):
            result = execution.result(timeout)
        encoded = client.program(name, execution.version).signature.encode("outputs", dict(result))
        if as_json:
            echo_json({**execution_data(execution), "result": json.loads(encoded)})
            return
        for field, value in json.loads(encoded).items():
            echo(f"{field}: ", bold=True, nl=False)
            echo(value if isinstance(value, str) else json.dumps(value))
        echo(f"{execution.id}  {execution.metrics.execution_time_ms:.0f} ms", dim=True, err=True)


def _inputs(signature: Signature, pairs: tuple[str, ...]) -> dict[str, Any]:
    texts = {field.name for field in signature.input_fields if is_text(field.type)}
    return by_name((_input(pair, texts) for pair in pairs), "input")


def _input(pair: str, texts: Collection[str]) -> tuple[str, Any]:
    key, separator, value = pair.partition("=")
    if not separator:
        raise click.UsageError(f"{pair!r} is not KEY=VALUE")
    return key, value if key in texts else _json_or_text(value)


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
