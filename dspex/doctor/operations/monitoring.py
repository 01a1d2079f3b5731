"""Monitoring and alerts: somebody is told when something goes wrong."""

from __future__ import annotations

from dspex.doctor.check import Finding, Need, check, met, warning
from dspex.doctor.deployment import Deployment


@check("Alerts reach somebody", Need.SETTINGS, mend="set DSPEX_ALERTS to email or webhook, and what it needs")
def alerts(deployment: Deployment) -> Finding:
    """In production alerts go where somebody reads them: email or a webhook, not only into a log."""
    channels = deployment.settings.alerts
    said = f"by {', '.join(channels)}" if channels else "to nobody"
    if deployment.production and not set(channels) & {"email", "webhook"}:
        return warning(said)
    return met(said) if channels else warning(said)


@check("The last health check found all well", Need.SCHEMA, mend="`dspex health` says what to do")
def health(deployment: Deployment) -> Finding:
    """What beat had checked last, from where the workers are: their models, their queue, their backends."""
    rows = deployment.rows("""SELECT healthy, components::text AS components,
        extract(epoch FROM now() - at)::float8 AS age FROM dspex.health_checks ORDER BY id DESC LIMIT 1""")
    if not rows:
        return warning("none is stored", mend="start beat: `dspex beat`")
    said = f"{rows[0].age:,.0f} s ago"
    return met(said) if rows[0].healthy else warning(f"{said}: not healthy")
