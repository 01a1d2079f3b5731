"""Sending webhooks: signed as standardwebhooks.com describes, at least once, in the order in which executions ended."""

from __future__ import annotations

import contextlib
import http.client
import logging
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from urllib.parse import urlsplit
from uuid import UUID

from dspex.client.batch import Progress
from dspex.client.execution import ExecutionSnapshot
from dspex.client.session import Session
from dspex.client.shown.batch_data import progress_data
from dspex.client.shown.execution_data import execution_data, shown_values
from dspex.errors import DspexError
from dspex.operations.alerts.webhook_channel import signature
from dspex.serve import gateway_metrics
from dspex.serve.api.json_replies import json_bytes
from dspex.serve.webhooks.public_address import NotPublic, connection_to
from dspex.store.lifecycle import batches
from dspex.store.operations import webhook_deliveries
from dspex.store.operations.webhook_deliveries import WebhookDelivery

__all__ = ["WebhookSender"]

log = logging.getLogger("dspex.serve")

#: How many are sent at a time, and how long an address may take to accept one.
AT_ONCE = 16
TIMEOUT_SECONDS = 15.0
#: How long a connection may last: an address that answers byte by byte would keep others waiting for ever.
MOST_SECONDS = 30.0
#: The most that is read of a response, of which only the status counts.
RESPONSE_BYTES = 64 * 1024
#: The receiver asks for no more of them.
GONE = 410
FORGET_EVERY_SECONDS = 3600.0


class WebhookSender:
    """Sends what is due. Any number of gateways may do it at the same time."""

    def __init__(self, session: Session) -> None:
        settings = session.settings
        self._session = session
        self._secret = settings.webhook_secret
        self._private = settings.webhook_private
        self._trust = ssl.create_default_context()
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="dspex-webhook")
        self._forgot_at = 0.0

    def close(self) -> None:
        """Let what is being sent finish; nothing else is begun."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def send_due(self) -> int:
        """Send what is due. Returns how many were delivered."""
        database = self._session.database
        self._forget()
        found = database.run(partial(webhook_deliveries.claim, most=AT_ONCE))
        return sum(self._threads.map(self._counted, found))

    def _counted(self, delivery: WebhookDelivery) -> bool:
        is_delivered = self._send(delivery)
        gateway_metrics.webhook_sent(delivered=is_delivered)
        return is_delivered

    def _send(self, delivery: WebhookDelivery) -> bool:
        database = self._session.database
        try:
            outcome = self._outcome(delivery)
            if outcome is None:
                return False
            status = self._post(delivery, *outcome)
        except (DspexError, NotPublic, OSError, http.client.HTTPException, ValueError) as error:
            final, why = isinstance(error, NotPublic), str(error).split("\n")[0] or type(error).__name__
        else:
            if 200 <= status < 300:
                database.run(partial(webhook_deliveries.delivered, claimed=delivery))
                return True
            final, why = status == GONE, f"it responded with {status}"
        host = urlsplit(delivery.url).hostname
        of = f"execution {delivery.execution_id}" if delivery.batch_id is None else f"batch {delivery.batch_id}"
        log.warning("the webhook of %s was not accepted by %s: %s", of, host, why)
        record = partial(webhook_deliveries.undelivered, claimed=delivery, error=f"{host}: {why}"[:500], final=final)
        database.run(record)
        return False

    def _post(self, delivery: WebhookDelivery, id: str, body: bytes) -> int:
        """Post an outcome; returns the status of the response. Redirects are not followed."""
        parts = urlsplit(delivery.url)
        if parts.scheme != "https" and not self._private:
            raise NotPublic("only https:// addresses are accepted (DSPEX_WEBHOOK_PRIVATE)")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        connection = connection_to(
            parts.scheme, str(parts.hostname), port, private=self._private, trust=self._trust, seconds=TIMEOUT_SECONDS
        )
        with contextlib.closing(connection), _ended_in_time(connection.sock):
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            headers = {"Host": parts.netloc, **self._headers(id, body)}
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            response.read(RESPONSE_BYTES)
            status = response.status
        return status

    def _outcome(self, delivery: WebhookDelivery) -> tuple[str, bytes] | None:
        """The id of an outcome and its content; None when it was queued again: its next outcome is sent.

        The id is the same each time: a receiver that got an outcome twice can leave the second out.
        """
        if delivery.execution_id is not None:
            return self._execution(delivery.execution_id)
        assert delivery.batch_id is not None
        return self._batch(delivery.batch_id, delivery)

    def _batch(self, id: UUID, delivery: WebhookDelivery) -> tuple[str, bytes] | None:
        session = self._session
        progress = Progress.of(session.progress(id))
        if progress.finished < progress.total:
            return None
        # A batch whose rows were all rejected is over at once.
        at = session.database.run(partial(batches.finished_at, batch_id=id)) or delivery.created_at
        data = {
            "id": id, **(delivery.content or {}), "finished_at": at, "progress": progress_data(progress),
            "failures": session.failures(id),
        }  # fmt: skip
        content = {"type": "batch.finished", "timestamp": at, "data": data}
        return f"batch_{id}_{at:%Y%m%dT%H%M%S%f}", json_bytes(content)

    def _execution(self, id: UUID) -> tuple[str, bytes] | None:
        session = self._session
        row = session.row(id)
        snapshot = ExecutionSnapshot(session, row)
        if snapshot.finished_at is None:
            return None
        _, result = shown_values(session, row)
        content = {
            "type": f"execution.{snapshot.status}",
            "timestamp": snapshot.finished_at,
            "data": {**execution_data(snapshot), "result": result},
        }
        return f"exec_{snapshot.id}_{snapshot.finished_at:%Y%m%dT%H%M%S%f}", json_bytes(content)

    def _headers(self, id: str, body: bytes) -> dict[str, str]:
        at = str(int(time.time()))
        headers = {
            "Content-Type": "application/json", "User-Agent": "dspex", "webhook-id": id, "webhook-timestamp": at,
        }  # fmt: skip
        if self._secret is not None:
            headers["webhook-signature"] = signature(self._secret, id, at, body)
        return headers

    def _forget(self) -> None:
        if time.monotonic() - self._forgot_at >= FORGET_EVERY_SECONDS or not self._forgot_at:
            self._session.database.run(webhook_deliveries.forget)
            self._forgot_at = time.monotonic()


@contextlib.contextmanager
def _ended_in_time(connection: socket.socket) -> Iterator[None]:
    """End a connection after MOST_SECONDS, and raise TimeoutError, if the block lasts as long."""
    is_late = threading.Event()

    def end() -> None:
        is_late.set()
        with contextlib.suppress(OSError):  # it has ended
            socket.socket.shutdown(connection, socket.SHUT_RDWR)

    timer = threading.Timer(MOST_SECONDS, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    if is_late.is_set():  # also where half of an answer was taken for all of it
        raise TimeoutError(f"it took more than {MOST_SECONDS:g} s")
