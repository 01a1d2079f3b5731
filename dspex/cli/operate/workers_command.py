"""``dspex workers``."""

from __future__ import annotations

import click
from rich.text import Text

from dspex.cli.output.console_tables import console, print_table
from dspex.cli.output.json_output import echo_json, json_option
from dspex.cli.output.plain_text import echo
from dspex.client.client import Client

__all__ = ["workers"]


@click.command()
@json_option
def workers(as_json: bool) -> None:
    """List the live workers: id, host, pid, state, running, last heartbeat; what they loaded, and their problems.

    Example: dspex workers
    """
    with Client() as client:
        rows = client.workers()
    if as_json:
        echo_json(rows)
        return
    if not rows:
        echo("no worker is alive: start one with `dspex worker`")
        return
    print_table(
        console(),
        ("id", "host", "pid", "state", "running", "last heartbeat"),
        [
            (
                str(row["id"]), row["host"], str(row["pid"]), row["state"], f"{row['running']}/{row['concurrency']}",
                Text(f"{row['heartbeat_age_seconds']:.1f} s ago",
                     style="" if row["live"] else "red"),
            )
            for row in rows
        ],
    )  # fmt: skip
    for row in rows:
        for each in row["setups"]:
            size = each["memory_bytes"] / 2**20
            echo(f"{row['id']}: {each['function']} took {each['seconds']:.1f} s and {size:.0f} MB")
        if row["trouble"]:
            echo(f"{row['id']}: {row['trouble']}", fg="red")
