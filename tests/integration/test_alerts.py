"""Alerts from beat's task to a mail server and a web server that really run, and the command line."""

from __future__ import annotations

import base64
import gc
import hashlib
import hmac
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email import message_from_bytes
from email.message import Message
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword
from pydantic import SecretStr

import dspex
from dspex.client.client import Client
from dspex.embedded.ports import free_port
from dspex.errors import AlertNotDelivered
from dspex.operations.alerts.alert import Alert, Notice
from dspex.operations.alerts.email_channel import EmailChannel
from dspex.settings import Backends
from tests.integration.test_cli import Shell
from tests.processes import WorkerProcess, command
from tests.waiting import wait_for

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECRET = b"a secret of twenty-four by"


class Mailbox:
    """What a mail server took."""

    def __init__(self) -> None:
        self.mails: list[Message] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        self.mails.append(message_from_bytes(envelope.content))
        return "250 OK"


class Hook(BaseHTTPRequestHandler):
    """Answers ``server.status`` and keeps what was posted."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posts.append((dict(self.headers), body))  # type: ignore[attr-defined]
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def hook() -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    server.posts, server.status = [], 200
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def words(mail: Message) -> str:
    content = mail.get_payload(decode=True)
    assert isinstance(content, bytes)
    return content.decode()


def test_mail_and_webhook_report_when_failures_begin_and_when_they_are_over(
    backends: Backends, client: Client, start_worker: Callable[..., WorkerProcess], hook: Any, tmp_path: Path
) -> None:
    box = Mailbox()
    mail_server = Controller(box, hostname="127.0.0.1", port=free_port())
    mail_server.start()
    settings = {
        "DSPEX_ALERTS": "log,email,webhook",
        "DSPEX_SMTP_URL": f"smtp://127.0.0.1:{mail_server.port}",
        "DSPEX_ALERT_EMAIL_TO": "oncall@example.com",
        "DSPEX_ALERT_EMAIL_FROM": "dspex@example.com",
        "DSPEX_ALERT_WEBHOOK_URL": f"http://127.0.0.1:{hook.server_port}/services/T0/hunter22",
        "DSPEX_ALERT_WEBHOOK_SECRET": "whsec_" + base64.b64encode(SECRET).decode(),
        "DSPEX_ALERT_AFTER_SECONDS": "0",
        # Only what this test is about: a busy machine has other troubles.
        "DSPEX_ALERT_THRESHOLDS": '{"unhealthy": false, "worker_memory_mb": "off", "queue_age_seconds": "off"}',
        "DSPEX_ALERT_INTERVAL_SECONDS": "1",
        "DSPEX_ALERT_WINDOW_SECONDS": "3600",
    }
    try:
        worker = start_worker(**settings)
        failure = {"code": "invalid_request", "times": 99}
        client.deploy(dspex.Program("qa", dspex.signature("question -> answer"), adapter="scripted",
                                    module_options={"fail": failure}))  # fmt: skip
        hook.status = 302
        for _ in range(5):
            with pytest.raises(dspex.ExecutionFailed):
                client.execute("qa", {"question": "hunter22"}, timeout=60)
        with command(backends, tmp_path / "beat.log", "beat", forked=True, **settings):
            wait_for(lambda: box.mails, "the mail that it began")
            wait_for(lambda: [a for a in client.alerts() if a.delivery_error], "the webhook's refusal to be on record")
            (alert,) = [a for a in client.alerts() if a.rule == "error_rate"]
            assert alert.delivery_error == "webhook: the webhook at 127.0.0.1 responded with 302 Found"
            hook.status = 204
            client._database.run(_hours_ago)
            wait_for(lambda: len(box.mails) >= 2, "the mail that it is over")
            wait_for(lambda: client.alerts()[0].undelivered == 0, "the webhook to be told what is late")
    finally:
        mail_server.stop()
    began, over = box.mails[:2]
    assert "FIRING error_rate qa: 100.0% of 5 executions failed in 60 min, most often with invalid_request" in words(
        began
    )
    assert str(began["Subject"]).startswith("[DSPex development, ")
    assert "RESOLVED error_rate qa" in words(over)

    headers, body = hook.posts[-1]
    headers = {name.lower(): value for name, value in headers.items()}
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(SECRET, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    content = json.loads(body)
    assert [told["event"] for told in content["alerts"]] == ["firing", "resolved"], "what is late, in order"
    assert content["alerts"][0]["rule"] == "error_rate"
    assert "FIRING error_rate qa" in content["text"]
    worker.stop()
    log = worker.log.read_text()
    assert "ERROR   dspex.alerts: FIRING error_rate qa" in log
    assert all("hunter22" not in told for told in (log, body.decode(), words(began))), "neither inputs nor the address"


# aiosmtpd leaves the connections of failed handshakes to the collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_mail_over_tls_with_a_password(tmp_path: Path) -> None:
    authority = trustme.CA()
    trusted = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(trusted)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)

    def authenticate(server: Any, session: Any, envelope: Any, mechanism: str, data: LoginPassword) -> AuthResult:
        return AuthResult(success=data.login == b"me" and data.password == b"p@ss", handled=False)

    box = Mailbox()
    server = Controller(box, hostname="127.0.0.1", port=free_port(), tls_context=tls, require_starttls=True,
                        authenticator=authenticate, auth_required=True)  # fmt: skip
    server.start()
    address = f"127.0.0.1:{server.port}"
    notice = Notice("1", "firing", Alert(1, "dead_workers", "", "firing", 1.0, 0.0, "1 worker stopped", NOW, NOW))

    def send(password: str, ca_file: Path | None) -> str:
        url = SecretStr(f"smtp+starttls://me:{password}@{address}")
        return EmailChannel(url, "dspex@example.com", ["a@example.com", "b@example.com"], "test", ca_file).send(
            [notice]
        )

    try:
        assert send("p%40ss", trusted) == f"a@example.com, b@example.com through {address}"
        with pytest.raises(AlertNotDelivered, match="it replied 535") as refused:
            send("hunter22", trusted)
        assert "hunter22" not in str(refused.value)
        with pytest.raises(AlertNotDelivered, match="certificate verify failed"):
            send("p%40ss", None)
    finally:
        server.stop()
        gc.collect()
    (mail,) = box.mails
    assert mail["Subject"] == "[DSPex test] FIRING dead_workers: 1 worker stopped"
    assert mail["Message-ID"] == "<1@dspex>"


def test_the_command_line_evaluates_lists_and_tries(
    backends: Backends, client: Client, hook: Any, tmp_path: Path
) -> None:
    shell = partial(
        Shell(backends, tmp_path), DSPEX_ALERTS="log,webhook",
        DSPEX_ALERT_WEBHOOK_URL=f"http://127.0.0.1:{hook.server_port}/hunter22",
    )  # fmt: skip
    client._database.run(_dead_worker)
    checked = shell("alerts", "check", "--json")
    assert checked.returncode == 1
    assert "FIRING dead_workers: 1 worker died in 5 min: h:7" in checked.stderr
    (alert,) = json.loads(checked.stdout)
    assert (alert["rule"], alert["state"], alert["value"], alert["undelivered"]) == ("dead_workers", "firing", 1.0, 0)
    listed = shell("alerts")
    assert listed.returncode == 1
    assert "firing" in listed.stdout
    tried = shell("alerts", "test", "webhook")
    assert (tried.returncode, tried.stdout) == (0, "webhook  sent  127.0.0.1, which responded with 200\n")
    assert [json.loads(body)["alerts"][0]["event"] for _, body in hook.posts] == ["firing", "test"]
    unset = shell("alerts", "test", "email")
    assert unset.returncode == 2
    assert "DSPEX_ALERTS is log,webhook: there is no email to test" in unset.stderr


def _hours_ago(connection: Any) -> None:
    """All that ended did so before the window began."""
    connection.exec_driver_sql("ALTER TABLE dspex.executions DISABLE TRIGGER USER")
    connection.exec_driver_sql("UPDATE dspex.executions SET finished_at = finished_at - interval '2 hours'")
    connection.exec_driver_sql("ALTER TABLE dspex.executions ENABLE TRIGGER USER")


def _dead_worker(connection: Any) -> None:
    connection.exec_driver_sql(
        "INSERT INTO dspex.workers (id, host, pid, version, state, concurrency, running, lease_seconds, started_at, "
        "heartbeat_at) VALUES (gen_random_uuid(), 'h', 7, '0', 'running', 1, 0, 5, now(), now() - interval '1 minute')"
    )


def test_the_report_on_the_command_line(backends: Backends, client: Client, tmp_path: Path) -> None:
    client.deploy(dspex.Program("qa", dspex.signature("question -> answer"), adapter="scripted"))
    assert client.submit("qa", {"question": "hunter22"}).cancel()
    shell = Shell(backends, tmp_path)
    shown = shell("report")
    assert shown.returncode == 0
    assert "submitted 1   completed 0   failed 0 (–)   cancelled 1" in shown.stdout
    written = shell("report", "--since", "1h", "-o", "report.html", "--json")
    assert json.loads(written.stdout)["signature_compilation_events"] == 1
    assert "hunter22" not in shown.stdout + written.stdout + (tmp_path / "report.html").read_text()
    wrong = shell("report", "-o", "report.pdf")
    assert wrong.returncode == 2
    assert "use .html, .md, .json" in wrong.stderr
