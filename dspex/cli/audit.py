"""``dspex audit``: is what the trails say what happened?"""

from __future__ import annotations

from datetime import datetime

import click

from dspex.cli.common import echo_json, json_option
from dspex.cli.completion import program_names
from dspex.cli.meter import Meter
from dspex.cli.moments import since_option
from dspex.client import Client

__all__ = ["audit"]


@click.group()
def audit() -> None:
    """Verify audit trails.

    Example: dspex audit verify
    """


@audit.command()
@click.option("--program", shell_complete=program_names, help="Only this program's executions.")
@since_option
@json_option
def verify(program: str | None, since: datetime | None, as_json: bool) -> int:
    """Recompute the chain of hashes of every execution. Exit code 1, and their ids, when trails are not whole.

    \b
    Examples:
      dspex audit verify --since 7d
      dspex audit verify --program simple_qa --json
    """
    verified = 0

    def note(done: int, total: int) -> None:
        nonlocal verified
        verified = done
        show(done, total)

    with Client() as client, Meter() as meter, meter.phase("verifying", None) as show:
        broken = client.verify_audit(program=program, since=since, on_progress=note)
    if as_json:
        found = [{"id": str(id), "faults": verdict.faults} for id, verdict in broken.items()]
        echo_json({"verified": verified, "broken": found})
    else:
        for id, verdict in broken.items():
            click.echo(f"{id}  {'; '.join(verdict.faults)}")
        click.echo(f"{verified} trails verified, {len(broken)} not whole")
    return 1 if broken else 0
