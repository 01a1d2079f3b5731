"""``dspex audit``: verify and export audit trails."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from uuid import UUID

import click

from dspex.cli.open_database import open_database
from dspex.cli.output.json_output import echo_json, json_option
from dspex.cli.output.plain_text import echo
from dspex.cli.output.progress_bar import ProgressBars
from dspex.cli.output.time_options import TimeParameter, since_option
from dspex.cli.shell_completion import program_names
from dspex.client.client import Client
from dspex.operations.audit import audit_export
from dspex.store.audit_chain import Verdict

__all__ = ["audit"]


@click.group()
def audit() -> None:
    """Verify audit trails, and export them to files that can be verified without the database.

    Example: dspex audit verify
    """


@audit.command()
@click.option("--program", shell_complete=program_names, help="Only executions of this program.")
@since_option
@click.option(
    "--file",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    help="Verify an exported file instead of the database.",
)
@json_option
def verify(program: str | None, since: datetime | None, file: Path | None, as_json: bool) -> int:
    """Recompute the hash chain of every execution. Prints the ids of broken trails; exit code 1 if there are any.

    \b
    Examples:
      dspex audit verify --since 7d
      dspex audit verify --program simple_qa --json
      dspex audit verify --file audit-2026-01.jsonl.gz
    """
    if file is not None:
        if program or since:
            raise click.UsageError("--file verifies the whole file: --program and --since cannot be given with it")
        return _verify_file(file, as_json)
    verified = 0

    def count(done: int, total: int) -> None:
        nonlocal verified
        verified = done
        on_progress(done, total)

    with Client() as client, ProgressBars() as bars, bars.phase("verifying", None) as on_progress:
        broken = client.verify_audit(program=program, since=since, on_progress=count)
    return _print_verdict(verified, broken, as_json)


@audit.command()
@since_option
@click.option("--until", type=TimeParameter(), metavar="WHEN", help="Only executions submitted before.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="The file to write: .jsonl, .jsonl.gz or .parquet.",
)
@json_option
def export(since: datetime | None, until: datetime | None, output: Path, as_json: bool) -> None:
    """Export audit trails to a file, which `dspex audit verify --file` verifies.

    The command prints a digest of the file. Keep it elsewhere to prove later that the file was not changed.

    \b
    Examples:
      dspex audit export --since 2026-01-01 --until 2026-02-01 -o audit-2026-01.jsonl.gz
      dspex audit export -o audit.parquet
    """
    about = {"since": since and since.isoformat(), "until": until and until.isoformat()}
    with open_database() as database, ProgressBars() as bars, bars.phase("exporting", None) as on_progress:
        written = audit_export.export(
            output, audit_export.chains(database, since, until), about=about, on_progress=on_progress
        )
    if as_json:
        echo_json({"file": str(output), **asdict(written)})
    else:
        echo(f"{output}: {written.executions} trails, {written.entries} entries, digest {written.digest}")


def _verify_file(file: Path, as_json: bool) -> int:
    held, broken = audit_export.verify_file(file)
    code = _print_verdict(held.executions, broken, as_json, digest=held.digest)
    if not as_json:
        echo(f"digest {held.digest}")
    return code


def _print_verdict(verified: int, broken: Mapping[UUID, Verdict], as_json: bool, **more: str) -> int:
    if as_json:
        found = [{"id": str(id), "faults": verdict.faults} for id, verdict in broken.items()]
        echo_json({"verified": verified, "broken": found, **more})
    else:
        for id, verdict in broken.items():
            echo(f"{id}  {'; '.join(verdict.faults)}")
        echo(f"{verified} trails verified, {len(broken)} broken")
    return 1 if broken else 0
