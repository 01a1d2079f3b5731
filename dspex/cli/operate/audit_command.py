"""``dspex audit``: verify, export and anchor audit trails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import click

from dspex.cli.open_database import open_database
from dspex.cli.output.json_output import echo_json, json_option
from dspex.cli.output.plain_text import echo
from dspex.cli.output.progress_bar import ProgressBars
from dspex.cli.output.time_options import TimeParameter, since_option
from dspex.cli.shell_completion import program_names
from dspex.client.client import Client
from dspex.operations.audit import anchor as anchor_file
from dspex.operations.audit import audit_export
from dspex.operations.audit.anchor import Anchor
from dspex.settings import Settings
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
@click.option(
    "--anchor",
    "anchors",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    help="Compare the trails with a file of anchors instead.",
)
@json_option
def verify(program: str | None, since: datetime | None, file: Path | None, anchors: Path | None, as_json: bool) -> int:
    """Recompute the hash chain of every execution. Prints the ids of broken trails; exit code 1 if there are any.

    A trail is broken if an event was changed, a transition is not legal, or the inputs or the outcome are not those
    that were recorded. With --anchor, the trails are compared with anchors that `dspex audit anchor` made before.

    \b
    Examples:
      dspex audit verify --since 7d
      dspex audit verify --program simple_qa --json
      dspex audit verify --file audit-2026-01.jsonl.gz
      dspex audit verify --anchor anchors.jsonl
    """
    if sum(given is not None for given in (file, anchors, program or since)) > 1:
        raise click.UsageError("--file, --anchor, and --program or --since exclude each other")
    if file is not None:
        return _verify_file(file, as_json)
    if anchors is not None:
        return _compare(anchor_file.read(anchors), as_json)
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


def _web_address(_context: click.Context, _option: click.Parameter, url: str | None) -> str | None:
    """The value of an option, which errors do not quote: it may hold a key."""
    try:
        valid = url is None or (urlsplit(url).scheme in ("http", "https") and urlsplit(url).hostname)
    except ValueError:
        valid = False
    if not valid:
        raise click.BadParameter("not an http:// or https:// address")
    return url


@audit.command()
@click.option(
    "--file", type=click.Path(dir_okay=False, path_type=Path), help="Append the anchor to this file, as a line of JSON."
)
@click.option("--url", callback=_web_address, help="Send the anchor to this address, as JSON by POST.")
@json_option
def anchor(file: Path | None, url: str | None, as_json: bool) -> None:
    """Make a digest of all trails of final executions, which shows later whether any was rewritten.

    Keep it where the owner of the database cannot change it. `dspex audit verify --anchor FILE` compares.

    \b
    Examples:
      dspex audit anchor --file /mnt/worm/dspex-anchors.jsonl
      dspex audit anchor --url https://notary.example.com/dspex
    """
    settings = Settings.load()
    with open_database(settings) as database, ProgressBars() as bars, bars.phase("reading", None) as on_progress:
        made = anchor_file.make(database, on_progress=on_progress)
    if file is not None:
        anchor_file.append(file, made)
    if url is not None:
        anchor_file.send(url, made, settings.ca_file)
    if as_json:
        echo_json(made.as_dict())
    else:
        echo(f"{made.executions} executions on {len(made.days)} days, digest {made.digest}")


def _compare(anchors: Sequence[Anchor], as_json: bool) -> int:
    with open_database() as database, ProgressBars() as bars, bars.phase("comparing", None) as on_progress:
        compared = anchor_file.compare(database, anchors, on_progress=on_progress)
    if as_json:
        echo_json([
            {"made_at": each.anchor.made_at.isoformat(), "as_anchored": each.as_anchored,
             "differs": each.differs, "unknown": each.unknown}
            for each in compared
        ])  # fmt: skip
    for each in [] if as_json else compared:
        echo(
            f"anchor of {each.anchor.made_at:%Y-%m-%d %H:%M:%S} UTC: {each.as_anchored} of {each.anchor.executions} "
            f"executions are on days that are as they were, {len(each.differs)} days differ, "
            f"{len(each.unknown)} are not known"
        )
        for line in [*(f"differs: {day}" for day in each.differs), *(f"not known: {day}" for day in each.unknown)]:
            echo(f"  {line}")
    return 1 if any(each.differs for each in compared) else 0


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
