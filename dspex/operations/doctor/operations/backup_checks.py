"""Backups: there is one, it is not old, and the last one went well."""

from __future__ import annotations

from dspex.operations.doctor.check import Finding, Need, check, met, not_met, warning
from dspex.operations.doctor.deployment import Deployment

#: In production a backup that is older than this is no longer one of yesterday.
OLD_HOURS = 26.0
MEND = "run `dspex backup` daily (docs/how-to/back-up.md), or have Postgres' provider make them, and try a restore"


@check("There is a recent backup", Need.SCHEMA, mend=MEND)
def recent(deployment: Deployment) -> Finding:
    """The last backup that `dspex backup` recorded as whole. Those that a provider makes are not known here."""
    row = deployment.row("""SELECT extract(epoch FROM now() - max(at))::float8 / 3600 AS hours
        FROM dspex.backups WHERE ok""")
    if row.hours is None:
        said = "none is recorded"
        return warning(said) if deployment.production else met(f"{said}; in production one is wanted")
    said = f"{row.hours:,.1f} h ago"
    old = deployment.production and row.hours > OLD_HOURS
    return (not_met if old else met)(said, hours=row.hours)


@check("The last backup went well", Need.SCHEMA, mend="mend what its error says, and run `dspex backup` again")
def whole(deployment: Deployment) -> Finding:
    """The last attempt at a backup did not fail."""
    rows = deployment.rows("SELECT ok, host, error FROM dspex.backups ORDER BY at DESC LIMIT 1")
    if not rows:
        return met("none was tried")
    return met(f"on {rows[0].host}") if rows[0].ok else not_met(f"on {rows[0].host}: {rows[0].error}")
