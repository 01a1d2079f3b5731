"""``dspex cancel``, ``retry``, ``pause`` and ``resume``."""

from __future__ import annotations

from typing import Any

import click

from dspex.cli.output.error_output import DONE, WRONG_USAGE, exit_code
from dspex.cli.output.json_output import echo_json, json_option
from dspex.cli.output.progress_bar import Meter
from dspex.cli.shell_completion import program_names
from dspex.client.client import Client
from dspex.errors import DspexError, ExecutionNotFound, TransitionRefused
from dspex.store.lifecycle.status import Status

__all__ = ["cancel", "pause", "resume", "retry"]


@click.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--batch", "batch_id", metavar="ID", help="Every execution of this batch that is not over.")
@json_option
def cancel(ids: tuple[str, ...], batch_id: str | None, as_json: bool) -> int:
    """Cancel executions: queued ones at once, running ones as soon as their worker hears of it.

    Exit code 1 when one of them had completed or failed already, 2 when one is not there; the others are cancelled.

    \b
    Examples:
      dspex cancel 0193e0f2-5d0a-7c31-a1f4-3b0f4a1c2d3e
      dspex cancel --batch 0193e0f2-5d0a-7c31-a1f4-000000000000
    """
    if bool(ids) == (batch_id is not None):
        raise click.UsageError("name executions, or a --batch")
    if batch_id is not None:
        return _cancel_batch(batch_id, as_json)
    with Client() as client, Meter() as meter:
        found = [_cancel(client, id) for id in meter.over("cancelling", ids)]
    if as_json:
        echo_json(found)
    for row in () if as_json else found:
        going = ", being cancelled" if row["cancelled"] and row["status"] != Status.CANCELLED else ""
        click.echo(f"{row['id']}  {row['status'] or 'not found'}{going}")
    return WRONG_USAGE if any(row["status"] is None for row in found) else int(not all(r["cancelled"] for r in found))


def _cancel(client: Client, id: str) -> dict[str, Any]:
    try:
        cancelled = client.cancel(id)
        return {"id": id, "cancelled": cancelled, "status": client.get(id).status}
    except ExecutionNotFound:
        return {"id": id, "cancelled": False, "status": None}


def _cancel_batch(id: str, as_json: bool) -> int:
    with Client() as client, Meter() as meter, meter.phase("cancelling", None) as show:
        count = client.batch(id).cancel(show)
    if as_json:
        echo_json({"batch_id": id, "cancelled": count})
    else:
        click.echo(f"{count} executions cancelled; those that run end as soon as their workers hear of it")
    return DONE


@click.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--failed", is_flag=True, help="Every execution that has failed: the dead letters.")
@click.option("--program", shell_complete=program_names, help="With --failed: only this program's.")
@json_option
def retry(ids: tuple[str, ...], failed: bool, program: str | None, as_json: bool) -> int:
    """Queue failed or cancelled executions again, with fresh attempts; model calls that were paid for are replayed.

    Exit code 1 when one of them is neither failed nor cancelled, 2 when one is not there; the others are queued.

    \b
    Examples:
      dspex retry 0193e0f2-5d0a-7c31-a1f4-3b0f4a1c2d3e
      dspex retry --failed --program simple_qa
    """
    if failed == bool(ids) or (program and not failed):
        raise click.UsageError("name executions, or give --failed (with or without --program)")
    with Client() as client, Meter() as meter:
        if failed:
            with meter.phase("queueing", None) as show:
                count, refused = client.retry_failed(program, on_progress=show), []
        else:
            refused = [error for id in ids if (error := _retry(client, id))]
            count = len(ids) - len(refused)
    if as_json:
        echo_json({"retried": count, "refused": [error.as_dict() for error in refused]})
    else:
        click.echo(f"{count} queued again")
        for error in refused:
            click.echo(f"{error.code}: {error}", err=True)
    return max(map(exit_code, refused), default=DONE)


def _retry(client: Client, id: str) -> DspexError | None:
    try:
        client.retry(id)
    except (ExecutionNotFound, TransitionRefused) as error:
        return error
    return None


@click.command()
@click.argument("name", shell_complete=program_names)
@json_option
def pause(name: str, as_json: bool) -> None:
    """Begin no execution of a program until it is resumed. Those that run go on; submits are still taken.

    Example: dspex pause simple_qa
    """
    with Client() as client:
        client.pause(name)
        _tell_paused(client, as_json)


@click.command()
@click.argument("name", shell_complete=program_names)
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
