"""The gateways: schedules are fired, and webhooks are sent and signed."""

from __future__ import annotations

from dspex.operations.doctor.check import Finding, Need, check, met, not_applicable, not_met, warning
from dspex.operations.doctor.deployment import Deployment
from dspex.store.facts import gateway_facts

#: A gateway fires and sends what is due within seconds.
LATE_SECONDS = 120
START = "start `dspex serve`, which fires schedules and sends webhooks"


@check("Schedules are fired", Need.SCHEMA, fix=START)
def schedules(deployment: Deployment) -> Finding:
    """A running gateway submits each due time within seconds."""
    found = deployment.ask(gateway_facts.schedules)
    if not found.count:
        return not_applicable("there is no schedule")
    if found.due and found.overdue_seconds > LATE_SECONDS:
        return not_met(f"{found.due} of {found.count} are due, the first for {found.overdue_seconds:,.0f} s")
    if found.failing:
        return warning(
            f"the last due time of {found.failing} of {found.count} submitted nothing",
            fix="client.schedules() and the console's page Schedules have the reasons",
        )
    return met(f"{found.count} schedules, none is late")


@check("Webhooks are sent", Need.SCHEMA, fix=START)
def webhooks(deployment: Deployment) -> Finding:
    """A running gateway sends outcomes within seconds; an address that refuses them is given up after a day."""
    found = deployment.ask(gateway_facts.webhooks)
    if not found.count:
        return not_applicable("no webhook was submitted within a week")
    if found.overdue_seconds > LATE_SECONDS:
        return not_met(f"one has been due for {found.overdue_seconds:,.0f} s")
    if found.given_up:
        return warning(
            f"{found.given_up:,} of {found.count:,} were given up within a week",
            fix="the console's page Webhooks has the reasons, and sends them again",
        )
    return met(f"{found.count:,} within a week, none is late")


@check("Webhooks are signed", Need.SCHEMA, fix="set DSPEX_WEBHOOK_SECRET where `dspex serve` runs")
def signed(deployment: Deployment) -> Finding:
    """A receiver recognizes webhooks of this deployment by their signature."""
    if not deployment.ask(gateway_facts.webhooks).count:
        return not_applicable("no webhook was submitted within a week")
    return (
        met("with DSPEX_WEBHOOK_SECRET") if deployment.settings.webhook_secret else warning("they are not signed here")
    )
