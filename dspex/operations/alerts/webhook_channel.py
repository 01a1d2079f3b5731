"""Alerts by webhook: JSON with a ``text`` for Slack and similar services, signed as standardwebhooks.com describes."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from dspex.errors import AlertNotDelivered
from dspex.operations.alerts.alert import Notice
from dspex.operations.posting import TIMEOUT_SECONDS, opener

__all__ = ["WebhookChannel", "signature"]

#: Responses that are about the content: bad request, too large, unsupported, unprocessable.
REFUSED = (400, 413, 415, 422)
#: The version of the payload.
FORMAT = 1


class WebhookChannel:
    """Sends one POST for all notifications. Any 2xx response is a success; redirects are not followed."""

    def __init__(self, url: SecretStr, secret: SecretStr | None, deployment: str, ca_file: Path | None) -> None:
        self._url = url.get_secret_value()
        self._secret = secret
        self._deployment = deployment
        self._ca_file = ca_file

    def send(self, notices: Sequence[Notice]) -> str:
        host = urlsplit(self._url).hostname
        body = json.dumps(self._content(notices), ensure_ascii=False).encode()
        request = urllib.request.Request(self._url, body, self._headers(notices, body), method="POST")  # noqa: S310
        try:
            with opener(self._ca_file).open(request, timeout=TIMEOUT_SECONDS) as response:
                return f"{host}, which responded with {response.status}"
        except urllib.error.HTTPError as error:
            error.close()
            raise AlertNotDelivered(
                f"the webhook at {host} responded with {error.code} {error.reason}", refused=error.code in REFUSED
            ) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            # Without the URL and the traceback: the URL may be a secret.
            raise AlertNotDelivered(f"the webhook at {host} is unreachable: {reason}") from None

    def _content(self, notices: Sequence[Notice]) -> dict[str, Any]:
        lines = ["\n→ ".join([notice.line, *notice.fix_lines]) for notice in notices]
        alerts = [{"event": notice.event, "delivery": notice.id, **notice.alert.as_dict()} for notice in notices]
        return {
            "format": FORMAT,
            "text": "\n".join([f"DSPex ({self._deployment})", *lines]),
            "deployment": self._deployment,
            "alerts": alerts,
        }

    def _headers(self, notices: Sequence[Notice], body: bytes) -> dict[str, str]:
        id, at = "msg_" + "-".join([notices[0].id, str(len(notices)), notices[-1].id]), str(int(time.time()))
        headers = {"Content-Type": "application/json", "User-Agent": "dspex", "webhook-id": id, "webhook-timestamp": at}
        if self._secret is not None:
            headers["webhook-signature"] = signature(self._secret, id, at, body)
        return headers


def signature(secret: SecretStr, id: str, at: str, body: bytes) -> str:
    """The header ``webhook-signature``: an HMAC-SHA256 of id, timestamp and body."""
    signed = hmac.new(_key(secret.get_secret_value()), f"{id}.{at}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(signed).decode()


def _key(secret: str) -> bytes:
    """The bytes of a key: decoded base64 after ``whsec_``, otherwise the text itself."""
    if secret.startswith("whsec_"):
        with contextlib.suppress(binascii.Error):
            return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    return secret.encode()
