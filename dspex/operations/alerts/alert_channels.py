"""Where alerts are told: the log, email, a webhook."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol
from urllib.parse import urlsplit

from dspex.operations.alerts.alert import Notice
from dspex.settings import Backends, Settings

__all__ = ["Channel", "channels", "deployment"]

log = logging.getLogger("dspex.alerts")


LEVELS = {"resolved": logging.INFO, "test": logging.WARNING}


class Channel(Protocol):
    """Tells people."""

    def tell(self, notices: Sequence[Notice]) -> str:
        """Tell all of these at once. Returns where to, in words. Raises AlertNotDelivered."""


class Log:
    """A line for each, of level ERROR while it fires, for whatever collects the logs of workers."""

    def tell(self, notices: Sequence[Notice]) -> str:
        for notice in notices:
            line = " → ".join([notice.line, *notice.advice])
            log.log(LEVELS.get(notice.event, logging.ERROR), "%s", line, extra={"alert": notice.alert.as_dict()})
        return "the log, as logger dspex.alerts"


def channels(settings: Settings, deployment: str) -> dict[str, Channel]:
    """The channels asked for, by name. ``deployment`` says in every message which one it is about."""
    made: dict[str, Channel] = {}
    for name in settings.alerts:
        if name == "log":
            made[name] = Log()
        elif name == "email":
            from dspex.operations.alerts.email_channel import Email

            assert settings.smtp_url is not None
            assert settings.alert_email_from is not None
            made[name] = Email(
                settings.smtp_url, settings.alert_email_from, settings.alert_email_to, deployment, settings.ca_file
            )
        else:
            from dspex.operations.alerts.webhook_channel import Webhook

            assert settings.alert_webhook_url is not None
            made[name] = Webhook(
                settings.alert_webhook_url, settings.alert_webhook_secret, deployment, settings.ca_file
            )
    return made


def deployment(settings: Settings, backends: Backends) -> str:
    """A deployment in a few words: its profile, and where its database is."""
    parts = urlsplit(backends.database_url)
    return f"{settings.env}, {parts.hostname or 'local'}{parts.path}"
