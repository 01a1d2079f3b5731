"""``dspex pause`` and ``dspex resume``."""

from __future__ import annotations

import click

from dspex.cli.output.json_output import echo_json, json_option
from dspex.cli.output.plain_text import echo
from dspex.cli.shell_completion import program_names
from dspex.client.client import Client

__all__ = ["pause", "resume"]


@click.command()
@click.argument("name", shell_complete=program_names)
@json_option
def pause(name: str, as_json: bool) -> None:
    """Start no more executions of a program until it is resumed.

    Running executions continue, and new ones can be submitted.

    Example: dspex pause simple_qa
    """
    with Client() as client:
        client.pause(name)
        _print_paused(client, as_json)


@click.command()
@click.argument("name", shell_complete=program_names)
@json_option
def resume(name: str, as_json: bool) -> None:
    """Start executions of a paused program again.

    A program that was paused because its budget is spent is paused again at once, unless a version with a higher
    limits.max_cost_usd was deployed.

    Example: dspex resume simple_qa
    """
    with Client() as client:
        client.resume(name)
        _print_paused(client, as_json)


def _print_paused(client: Client, as_json: bool) -> None:
    paused = client.paused()
    if as_json:
        echo_json({"paused": list(paused), "reasons": paused})
    else:
        echo(f"paused: {', '.join(f'{name} ({why})' for name, why in paused.items()) or 'nothing'}")
