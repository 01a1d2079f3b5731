"""``dspex cancel``, ``retry``, ``pause`` and ``resume``."""

from __future__ import annotations

import click

from dspex.cli.common import echo_json, json_option
from dspex.client import Client

__all__ = ["cancel", "pause", "resume", "retry"]


@click.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@json_option
def cancel(ids: tuple[str, ...], as_json: bool) -> int:
    """Cancel executions: queued ones at once, running ones as soon as their worker hears of it.

    Exit code 1 when one of them had completed or failed already.

    Example: dspex cancel 0193e0f2-…
    """
    with Client() as client:
        cancelled = {id: client.cancel(id) for id in ids}
        if as_json:
            states = [(id, done, client.get(id).status) for id, done in cancelled.items()]
            echo_json([{"id": id, "cancelled": done, "status": status} for id, done, status in states])
        else:
            for id in cancelled:
                status = client.get(id).status
                click.echo(f"{id}  {status}" + ("" if status.is_final else ", being cancelled"))
    return 0 if all(cancelled.values()) else 1


@click.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--failed", is_flag=True, help="Every execution that has failed: the dead letters.")
@click.option("--program", help="With --failed: only this program's.")
@json_option
def retry(ids: tuple[str, ...], failed: bool, program: str | None, as_json: bool) -> None:
    """Queue failed or cancelled executions again, with fresh attempts; model calls that were paid for are replayed.

    Example: dspex retry --failed --program simple_qa
    """
    if failed == bool(ids) or (program and not failed):
        raise click.UsageError("name executions, or give --failed (with or without --program)")
    with Client() as client:
        for id in ids:
            client.retry(id)
        count = client.retry_failed(program) if failed else len(ids)
    if as_json:
        echo_json({"retried": count})
    else:
        click.echo(f"{count} queued again")


@click.command()
@click.argument("name")
@json_option
def pause(name: str, as_json: bool) -> None:
    """Begin no execution of a program until it is resumed. Those that run go on; submits are still taken.

    Example: dspex pause simple_qa
    """
    with Client() as client:
        client.pause(name)
        _tell_paused(client, as_json)


@click.command()
@click.argument("name")
@json_option
def resume(name: str, as_json: bool) -> None:
    """Begin executions of a paused program again.

    A program that was paused because its budget is spent is paused again at once, unless a version with a higher
    limits.max_cost_usd was deployed.

    Example: dspex resume simple_qa
    """
    with Client() as client:
        client.resume(name)
        _tell_paused(client, as_json)


def _tell_paused(client: Client, as_json: bool) -> None:
    paused = client.paused()
    if as_json:
        echo_json({"paused": list(paused), "reasons": paused})
    else:
        click.echo(f"paused: {', '.join(f'{name} ({why})' for name, why in paused.items()) or 'nothing'}")
