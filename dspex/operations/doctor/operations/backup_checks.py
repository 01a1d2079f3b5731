"""Backups: there is a recent one, and the last attempt succeeded."""

from __future__ import annotations

from dspex.operations.doctor.check import Finding, Need, check, met, not_applicable, not_met, warning
from dspex.operations.doctor.deployment import Deployment
from dspex.store.operations import backups

#: In production a daily backup is late when the last one is older.
OLD_HOURS = 26.0
FIX = "run `dspex backup` daily (docs/how-to/back-up.md), or use your provider's backups; then test a restore"


@check("There is a recent backup", Need.SCHEMA, fix=FIX)
def recent(deployment: Deployment) -> Finding:
    """The age of the last successful `dspex backup`. Backups that a provider makes are not known here."""
    latest = deployment.ask(backups.latest)
    if latest is None:
        return (warning if deployment.production else not_applicable)("none is recorded; production needs one")
    hours = latest["age_seconds"] / 3600
    old = deployment.production and hours > OLD_HOURS
    return (not_met if old else met)(f"{hours:,.1f} h ago", hours=hours)


@check("The last backup succeeded", Need.SCHEMA, fix="fix the cause in its error, and run `dspex backup` again")
def whole(deployment: Deployment) -> Finding:
    """The last attempt at a backup did not fail."""
    last = deployment.ask(backups.last_attempt)
    if last is None:
        return not_applicable("none was attempted")
    return met(f"on {last.host}") if last.ok else not_met(f"on {last.host}: {last.error}")
