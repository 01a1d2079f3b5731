"""Alerts by email."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Sequence
from email.message import EmailMessage
from email.utils import formatdate
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from dspex.errors import AlertNotDelivered
from dspex.operations.alerts.alert import Notice

__all__ = ["EmailChannel"]

TIMEOUT_SECONDS = 10.0
PORTS = {"smtp": 25, "smtp+starttls": 587, "smtps": 465}


class EmailChannel:
    """Sends one plain-text email for all notifications. The server's certificate is verified."""

    def __init__(
        self, url: SecretStr, sender: str, recipients: Sequence[str], deployment: str, ca_file: Path | None
    ) -> None:
        self._url = urlsplit(url.get_secret_value())
        self._sender = sender
        self._recipients = recipients
        self._deployment = deployment
        self._ca_file = ca_file

    def send(self, notices: Sequence[Notice]) -> str:
        host, port = self._url.hostname or "", self._url.port or PORTS[self._url.scheme]
        trust = ssl.create_default_context()
        if self._ca_file is not None:
            trust.load_verify_locations(self._ca_file)
        try:
            with (
                smtplib.SMTP_SSL(host, port, timeout=TIMEOUT_SECONDS, context=trust)
                if self._url.scheme == "smtps"
                else smtplib.SMTP(host, port, timeout=TIMEOUT_SECONDS)
            ) as server:
                self._log_in(server, trust)
                refused = server.send_message(self._message(notices))
        except (smtplib.SMTPException, OSError) as error:
            raise AlertNotDelivered(
                f"no email through {host}:{port}: {_reason(error)}", refused=isinstance(error, smtplib.SMTPDataError)
            ) from error
        if refused:
            raise AlertNotDelivered(f"{host}:{port} rejected the recipients {', '.join(refused)}")
        return f"{', '.join(self._recipients)} through {host}:{port}"

    def _log_in(self, server: smtplib.SMTP, trust: ssl.SSLContext) -> None:
        if self._url.scheme == "smtp+starttls":
            server.starttls(context=trust)
        if self._url.username:
            server.login(unquote(self._url.username), unquote(self._url.password or ""))

    def _message(self, notices: Sequence[Notice]) -> EmailMessage:
        message = EmailMessage()
        message["Subject"] = f"[DSPex {self._deployment}] {_subject(notices)}"
        message["From"] = self._sender
        message["To"] = ", ".join(self._recipients)
        message["Date"] = formatdate()
        # The same at each attempt, so that mail programs recognise duplicates.
        message["Message-ID"] = f"<{'.'.join(notice.id for notice in notices[:20])}@dspex>"
        message["Auto-Submitted"] = "auto-generated"
        parts = ["\n".join([notice.line, f"since {_times(notice)}", *notice.fix_lines]) for notice in notices]
        message.set_content("\n\n".join([*parts, f"Deployment: {self._deployment}. All alerts: `dspex alerts`."]))
        return message


def _subject(notices: Sequence[Notice]) -> str:
    if len(notices) == 1:
        return notices[0].line[:150]
    events = [notice.event for notice in notices]
    return ", ".join(f"{events.count(event)} {event}" for event in dict.fromkeys(events))


def _times(notice: Notice) -> str:
    begin = f"{notice.alert.since:%Y-%m-%d %H:%M:%S} UTC"
    end = notice.alert.resolved_at
    return f"{begin}, until {end:%H:%M:%S} UTC" if end is not None and notice.event == "resolved" else begin


def _reason(error: Exception) -> str:
    """The reply of the server, or the error of the system. Never contains what was sent."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return f"it rejected the recipients {', '.join(error.recipients)}"
    if isinstance(error, smtplib.SMTPResponseException):
        reply = error.smtp_error.decode(errors="replace") if isinstance(error.smtp_error, bytes) else error.smtp_error
        return f"it replied {error.smtp_code} {reply}"
    return str(error) or type(error).__name__
