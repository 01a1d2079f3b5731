"""``dspex audit``: is what the trails say what happened?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dspex.cli.common import echo_json, json_option
from dspex.client import Client

__all__ = ["audit"]


@click.group()
def audit() -> None:
    """Verify audit trails."""


@audit.command()
@click.option("--program", help="Only this program's executions.")
@click.option("--since", type=click.DateTime(), help="Only those submitted since (UTC).")
@json_option
def verify(program: str | None, since: datetime | None, as_json: bool) -> int:
    """Recompute the chain of hashes of every execution. Exit code 1, and their ids, when trails are not whole.

    Example: dspex audit verify --since 2026-01-01
    """
    verified = 0

    def note(done: int, total: int) -> None:
        nonlocal verified
        verified = done
        show(done, total)

    with Client() as client, _progress() as show:
        moment = since and since.replace(tzinfo=UTC)
        broken = client.verify_audit(program=program, since=moment, on_progress=note)
    if as_json:
        found = [{"id": str(id), "faults": verdict.faults} for id, verdict in broken.items()]
        echo_json({"verified": verified, "broken": found})
    else:
        for id, verdict in broken.items():
            click.echo(f"{id}  {'; '.join(verdict.faults)}")
        click.echo(f"{verified} trails verified, {len(broken)} not whole")
    return 1 if broken else 0


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, nothing elsewhere."""
    columns = (TextColumn("verifying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
