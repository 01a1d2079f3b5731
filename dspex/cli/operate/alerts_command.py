"""``dspex alerts``: list alerts, evaluate them, and test the channels."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import click
from rich.text import Text

from dspex.cli.output.console_tables import console, print_table
from dspex.cli.output.json_output import echo_json, json_option
from dspex.cli.output.number_options import NumberRange
from dspex.cli.output.plain_text import echo
from dspex.client.client import Client
from dspex.errors import AlertNotDelivered, ConfigurationError
from dspex.operations.alerts.alert import Alert, Notice
from dspex.operations.alerts.alert_channels import alert_channels, deployment
from dspex.operations.alerts.alert_evaluation import evaluate_and_notify
from dspex.settings import Settings

__all__ = ["alerts"]

STYLES = {"pending": "yellow", "firing": "bold red", "resolved": "green"}


@click.group(invoke_without_command=True)
@click.option(
    "--resolved-within",
    type=NumberRange(0, 1_000_000),
    default=24.0,
    show_default=True,
    metavar="HOURS",
    help="Include alerts resolved within so many hours.",
)
@json_option
@click.pass_context
def alerts(ctx: click.Context, resolved_within: float, as_json: bool) -> int:
    """List alerts: firing and pending ones, then recently resolved ones. Exit code 1 if an alert is firing.

    \b
    Example: dspex alerts
             dspex alerts test email
             dspex alerts check
    """
    if ctx.invoked_subcommand is not None:
        return 0
    with Client() as client:
        found = client.alerts(resolved_within=timedelta(hours=resolved_within))
    return _show(found, as_json)


@alerts.command()
@click.argument("channel", required=False, type=click.Choice(["log", "email", "webhook"]))
@json_option
def test(channel: str | None, as_json: bool) -> int:
    """Send a test alert to each channel of DSPEX_ALERTS, or to one, and print the results. Exit code 1 if one fails.

    \b
    Example: dspex alerts test
             dspex alerts test webhook
    """
    settings = Settings.load()
    made = alert_channels(settings, deployment(settings, settings.backends()))
    if not made or (channel and channel not in made):
        enabled = ",".join(settings.alerts) or "none"
        raise ConfigurationError(f"DSPEX_ALERTS is {enabled}: there is no {channel or 'channel'} to test")
    results = {}
    for name in [channel] if channel else list(made):
        try:
            results[name] = (True, made[name].send([_test_notice()]))
        except AlertNotDelivered as error:
            results[name] = (False, str(error))
    if as_json:
        echo_json(
            {name: {"delivered": delivered, "details": details} for name, (delivered, details) in results.items()}
        )
    else:
        for name, (delivered, details) in results.items():
            echo(f"{name:8} {'sent' if delivered else 'FAILED'}  {details}", fg=None if delivered else "red")
    return 0 if all(delivered for delivered, _ in results.values()) else 1


@alerts.command()
@json_option
def check(as_json: bool) -> int:
    """Evaluate alerts and send notifications now, as beat schedules it on a worker.

    Run it from cron on another host to be alerted when no worker is left. Exit code 1 if an alert is firing.

    Example: dspex alerts check
    """
    settings = Settings.load()
    done = evaluate_and_notify(settings)
    with Client(settings) as client:
        found = client.alerts(resolved_within=timedelta(0))
    for name, failure in done.failures.items():
        echo(f"not sent by {name}: {failure}", fg="red", err=True)
    return _show(found, as_json)


def _show(found: Sequence[Alert], as_json: bool) -> int:
    firing = any(alert.state == "firing" for alert in found)
    if as_json:
        echo_json([alert.as_dict() for alert in found])
    elif not found:
        echo("no alerts")
    else:
        print_table(
            console(),
            ("state", "since", "alert", "subject", "summary"),
            [(Text(a.state, style=STYLES[a.state]), _when(a), a.rule, a.subject or "-", _summary(a)) for a in found],
        )
    return 1 if firing else 0


def _when(alert: Alert) -> str:
    """When it began, in local time, and how long it has lasted."""
    until = alert.resolved_at or datetime.now(UTC)
    minutes, seconds = divmod(int((until - alert.since).total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    lasted = f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{seconds} s"
    return f"{alert.since.astimezone():%m-%d %H:%M} for {lasted}"


def _summary(alert: Alert) -> Text:
    text = Text(alert.summary)
    if alert.state != "resolved":
        text.append(f"\n→ {alert.fix}" if sys.stdout.isatty() else f" → {alert.fix}", style="dim")
    if alert.undelivered:
        text.append(f" (not sent yet: {alert.delivery_error or 'waiting'})", style="yellow")
    return text


def _test_notice() -> Notice:
    now = datetime.now(UTC)
    alert = Alert(0, "test", "", "firing", 1.0, 0.0, "this is a test of `dspex alerts test`", now, now, now)
    return Notice(f"test-{int(now.timestamp())}", "test", alert)
