"""``dspex retention``."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import Any

import click

from dspex.cli.open_database import open_database
from dspex.cli.output.console_tables import console, print_table
from dspex.cli.output.json_output import echo_json, json_option
from dspex.cli.output.plain_text import echo
from dspex.operations.retention.upkeep import Plan, plan, requests_expired_at, upkeep
from dspex.settings import Settings
from dspex.store.database import Database
from dspex.store.operations import retention as store
from dspex.store.partitions import moment

__all__ = ["retention"]

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@click.command()
@click.option("--apply", is_flag=True, help="Remove expired data now, as upkeep does every ten minutes.")
@json_option
def retention(apply: bool, as_json: bool) -> int:
    """Show how long data is kept. Nothing is removed without --apply.

    The settings are DSPEX_RETENTION_DAYS, DSPEX_AUDIT_RETENTION_DAYS, DSPEX_REQUEST_RETENTION_DAYS and
    DSPEX_RETENTION_EXPORT. Exit code 1 if expired data could not be removed.

    \b
    Examples:
      dspex retention
      DSPEX_RETENTION_DAYS=30 dspex retention
      dspex retention --apply
    """
    settings = Settings.load()
    with open_database(settings) as database:
        return _apply(database, settings, as_json) if apply else _show(database, settings, as_json)


def _apply(database: Database, settings: Settings, as_json: bool) -> int:
    steps = []
    for step in upkeep(database, settings):
        steps.append(step)
        if not as_json:
            echo(("waits: " if step.waits else "") + step.what)
    if as_json:
        echo_json([{"what": step.what, "waits": step.waits} for step in steps])
    elif not steps:
        echo("nothing to do")
    return 1 if any(step.waits for step in steps) else 0


def _show(database: Database, settings: Settings, as_json: bool) -> int:
    planned, expired = plan(database, settings), _expired_rows(database, settings)
    if as_json:
        echo_json({"periods": [_as_data(each) for each in planned], "expired_rows": expired})
        return 0
    screen, now = console(), datetime.now(UTC)
    rows = [
        (_day(moment(each.period.low)), _day(moment(each.period.high)), _count(each), _size(each.period.bytes),
         _executions(each, now), _audit(each, now))
        for each in planned
        if moment(each.period.low) <= now and (each.period.audit_retired_at is None or each.period.leftovers)
    ]  # fmt: skip
    print_table(screen, ("from", "before", "executions", "size", "executions and results", "audit trails"), rows)
    gone = [each for each in planned if each.period.audit_retired_at is not None]
    if gone:
        echo(f"{len(gone)} periods were removed, the last on {_day(max(_gone_at(each) for each in gone))}")
    if settings.retention_days is None:
        echo("DSPEX_RETENTION_DAYS is not set: data is kept forever")
    for name, count in expired.items():
        if count:
            echo(f"{count} {name} have expired and are removed by the next upkeep")
    return 0


def _expired_rows(database: Database, settings: Settings) -> dict[str, int]:
    """How many rows the next upkeep removes, by what they are."""
    before = requests_expired_at(settings, datetime.now(UTC))
    expired = dict(database.run(store.prunable))
    if before is not None:
        expired["recorded requests"] = database.run(partial(store.removable_requests, recorded_before=before))
    return expired


def _executions(planned: Plan, now: datetime) -> str:
    if planned.period.retired_at is not None:
        return f"removed {_day(planned.period.retired_at)}"
    return _until(planned.executions_go_at, now)


def _audit(planned: Plan, now: datetime) -> str:
    return _until(planned.audit_goes_at, now)


def _until(at: datetime | None, now: datetime) -> str:
    if at is None:
        return "kept"
    return "expired" if at <= now else f"kept until {_day(at)}"


def _count(planned: Plan) -> str:
    period = planned.period
    return f"{period.executions}" if period.digest is not None else f"about {period.executions or 0}"


def _gone_at(planned: Plan) -> datetime:
    return planned.period.audit_retired_at or datetime.min.replace(tzinfo=UTC)


def _size(bytes: int) -> str:
    power = min(max(bytes.bit_length() - 1, 0) // 10, len(_UNITS) - 1)
    return f"{bytes / 1024**power:.{1 if power else 0}f} {_UNITS[power]}"


def _day(at: datetime) -> str:
    return f"{at:%Y-%m-%d}"


def _as_data(planned: Plan) -> dict[str, Any]:
    period = planned.period

    def iso(at: datetime | None) -> str | None:
        return None if at is None else at.isoformat()

    return {
        "name": period.name,
        "from": iso(moment(period.low)),
        "before": iso(moment(period.high)),
        "executions": period.executions,
        "bytes": period.bytes,
        "executions_go_at": iso(planned.executions_go_at),
        "executions_removed_at": iso(period.retired_at),
        "audit_goes_at": iso(planned.audit_goes_at),
        "audit_removed_at": iso(period.audit_retired_at),
        "audit_export": period.audit_export,
        "digest": None if period.digest is None else period.digest.hex(),
    }
