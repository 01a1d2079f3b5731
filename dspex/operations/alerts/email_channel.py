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

__all__ = ["Email"]

TIMEOUT_SECONDS = 10.0
PORTS = {"smtp": 25, "smtp+starttls": 587, "smtps": 465}


class Email:
    """One plain message for all that there is to tell. The server's certificate is checked."""

    def __init__(
        self, url: SecretStr, sender: str, recipients: Sequence[str], deployment: str, ca_file: Path | None
    ) -> None:
        self._url = urlsplit(url.get_secret_value())
        self._sender = sender
        self._recipients = recipients
        self._deployment = deployment
        self._ca_file = ca_file

    def tell(self, notices: Sequence[Notice]) -> str:
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
            raise AlertNotDelivered(f"no email by {host}:{port}: {_reason(error)}") from error
        if refused:
            raise AlertNotDelivered(f"{host}:{port} took no mail for {', '.join(refused)}")
        return f"{', '.join(self._recipients)} by {host}:{port}"

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
        # The same at each try, so that a mail program shows what came twice as one.
        message["Message-ID"] = f"<{'.'.join(notice.id for notice in notices[:20])}@dspex>"
        message["Auto-Submitted"] = "auto-generated"
        told = ["\n".join([notice.line, f"since {_moment(notice)}", *notice.advice]) for notice in notices]
        message.set_content("\n\n".join([*told, f"Deployment: {self._deployment}. All alerts: `dspex alerts`."]))
        return message


def _subject(notices: Sequence[Notice]) -> str:
    if len(notices) == 1:
        return notices[0].line[:150]
    events = [notice.event for notice in notices]
    return ", ".join(f"{events.count(event)} {event}" for event in dict.fromkeys(events))


def _moment(notice: Notice) -> str:
    begun = f"{notice.alert.since:%Y-%m-%d %H:%M:%S} UTC"
    over = notice.alert.resolved_at
    return f"{begun}, over at {over:%H:%M:%S} UTC" if over is not None and notice.event == "resolved" else begun


def _reason(error: Exception) -> str:
    """What the server said, or the system; never what was sent to it."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return f"it took no mail for {', '.join(error.recipients)}"
    if isinstance(error, smtplib.SMTPResponseException):
        said = error.smtp_error.decode(errors="replace") if isinstance(error.smtp_error, bytes) else error.smtp_error
        return f"it answered {error.smtp_code} {said}"
    return str(error) or type(error).__name__
