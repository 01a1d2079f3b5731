"""The channels through which alerts are sent: the log, email, a webhook."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

from dspex.operations.alerts.alert import Notice
from dspex.settings import Backends, Settings
from dspex.settings.urls import split_url

__all__ = ["AlertChannel", "alert_channels", "deployment"]

log = logging.getLogger("dspex.alerts")


LEVELS = {"resolved": logging.INFO, "test": logging.WARNING}


class AlertChannel(Protocol):
    """Sends notifications."""

    def send(self, notices: Sequence[Notice]) -> str:
        """Send all notifications at once. Returns the destination as text. Raises AlertNotDelivered."""


class LogChannel:
    """Writes one log line for each notification; the level is ERROR while an alert fires."""

    def send(self, notices: Sequence[Notice]) -> str:
        for notice in notices:
            line = " → ".join([notice.line, *notice.fix_lines])
            log.log(LEVELS.get(notice.event, logging.ERROR), "%s", line, extra={"alert": notice.alert.as_dict()})
        return "the log, as logger dspex.alerts"


def alert_channels(settings: Settings, deployment: str) -> dict[str, AlertChannel]:
    """The enabled channels, by name. Every message contains the text ``deployment``."""
    made: dict[str, AlertChannel] = {}
    for name in settings.alerts:
        if name == "log":
            made[name] = LogChannel()
        elif name == "email":
            from dspex.operations.alerts.email_channel import EmailChannel

            assert settings.smtp_url is not None
            assert settings.alert_email_from is not None
            made[name] = EmailChannel(
                settings.smtp_url, settings.alert_email_from, settings.alert_email_to, deployment, settings.ca_file
            )
        else:
            from dspex.operations.alerts.webhook_channel import WebhookChannel

            assert settings.alert_webhook_url is not None
            made[name] = WebhookChannel(
                settings.alert_webhook_url, settings.alert_webhook_secret, deployment, settings.ca_file
            )
    return made


def deployment(settings: Settings, backends: Backends) -> str:
    """A short name for the deployment: its profile and its database."""
    parts = split_url(backends.database_url)
    return f"{settings.env}, {parts.hostname or 'local'}{parts.path}"
