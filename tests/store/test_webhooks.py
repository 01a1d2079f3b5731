"""Webhooks of executions: sent once they are final, signed, tried again, and never to a private network."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from sqlalchemy import text

import dspex
from dspex.client.client import Client
from dspex.errors import ExecutionTimedOut, ValidationError
from dspex.serve.webhooks import webhook_sender
from dspex.serve.webhooks.public_address import NotPublic, public_addresses
from dspex.serve.webhooks.webhook_sender import WebhookSender
from dspex.settings import Backends, Settings
from dspex.store.database import Database
from dspex.store.operations import webhook_deliveries

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef").decode()
QA = dspex.signature("question -> answer")
Received = list[tuple[dict[str, str], bytes]]


@contextmanager
def receiver(status: int = 204) -> Iterator[tuple[str, Received]]:
    """An address that answers with a status, and what it received."""
    received: Received = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            received.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/hook?a=b", received
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def client(backends: Backends) -> Iterator[Client]:
    settings = Settings.load(
        database_url=backends.database_url, broker_url=backends.broker_url, webhook_private=True, webhook_secret=SECRET
    )
    with Client(settings) as opened:
        opened.deploy(dspex.Program("qa", QA, adapter="scripted"))
        yield opened


@pytest.fixture
def sender(client: Client) -> Iterator[WebhookSender]:
    made = WebhookSender(client._session)
    yield made
    made.close()


def due_now(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(text("UPDATE dspex.webhook_deliveries SET next_at = clock_timestamp()"))


def listed(database: Database, *, trouble: bool = False) -> Any:
    return database.run(partial(webhook_deliveries.listing, trouble=trouble, most=10))


def test_an_outcome_is_posted_once_it_is_final(client: Client, sender: WebhookSender, database: Database) -> None:
    with receiver() as (url, received):
        execution = client.submit("qa", {"question": "?"}, webhook=url, tenant="acme")
        assert sender.send_due() == 0, "it is not final"
        client.cancel(execution.id)
        due_now(database)
        assert sender.send_due() == 1
        assert sender.send_due() == 0, "it was delivered"
    ((headers, body),) = received
    data = json.loads(body)
    assert (data["type"], data["data"]["id"], data["data"]["tenant"]) == (
        "execution.cancelled",
        str(execution.id),
        "acme",
    )
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(b"0123456789abcdef", signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    (delivery,) = listed(database)
    assert (delivery.attempts, delivery.delivered_at is None) == (1, False)


def test_each_outcome_of_an_execution_that_is_retried_is_posted(
    client: Client, sender: WebhookSender, database: Database
) -> None:
    with receiver() as (url, received):
        execution = client.submit("qa", {"question": "?"}, webhook=url)
        client.cancel(execution.id)
        (claimed,) = database.run(partial(webhook_deliveries.claim, most=1))
        client.retry(execution.id)  # while the first outcome is being sent
        database.run(partial(webhook_deliveries.delivered, claimed=claimed))
        client.cancel(execution.id)
        assert sender.send_due() == 1
        client.retry(execution.id)
        assert sender.send_due() == 0, "it is queued again"
        client.cancel(execution.id)
        due_now(database)
        assert sender.send_due() == 1
    assert len({headers["webhook-id"] for headers, _ in received}) == 2


def test_one_that_is_not_accepted_is_tried_again_and_can_be_sent_by_hand(
    client: Client, sender: WebhookSender, database: Database
) -> None:
    with receiver(500) as (url, received):
        execution = client.submit("qa", {"question": "?"}, webhook=url)
        client.cancel(execution.id)
        assert sender.send_due() == 0
        (failed,) = listed(database, trouble=True)
        assert (failed.error, failed.dead_at) == ("127.0.0.1: it responded with 500", None)
        assert sender.send_due() == 0
        assert len(received) == 1, "it waits for its backoff"
        with database.transaction() as connection:
            connection.execute(
                text("UPDATE dspex.webhook_deliveries SET next_at = now(), first_at = now() - interval '25 h'")
            )
        assert sender.send_due() == 0
        (dead,) = listed(database, trouble=True)
        assert dead.dead_at is not None
        ids = {headers["webhook-id"] for headers, _ in received}
        assert (len(received), len(ids)) == (2, 1)
    assert database.run(partial(webhook_deliveries.send_again, id=dead.id))
    (again,) = listed(database)
    assert (again.attempts, again.dead_at, again.error) == (0, None, None)


def test_a_batch_is_posted_once_when_all_of_it_is_over(
    client: Client, sender: WebhookSender, database: Database
) -> None:
    with receiver() as (url, received):
        rows = [{"question": "1"}, {"question": 2}, {"question": "3"}]
        batch = client.submit_many("qa", rows, webhook=url, tenant="acme")
        client.cancel(batch.ids[0])
        assert sender.send_due() == 0, "one of its rows is not final"
        client.cancel(batch.ids[1])
        due_now(database)
        assert sender.send_due() == 1
        assert sender.send_due() == 0, "it was delivered"
        client.retry(batch.ids[0])
        assert sender.send_due() == 0, "a row is queued again, before those that were seen to be over"
        client.cancel(batch.ids[0])
        due_now(database)
        assert sender.send_due() == 1
    first, second = (json.loads(body) for _, body in received)
    assert (first["type"], first["data"]["id"]) == ("batch.finished", str(batch.id))
    counts = first["data"]["progress"]
    assert (counts["total"], counts["finished"], counts["cancelled"]) == (2, 2, 2)
    assert {name: first["data"][name] for name in ("program", "rows", "stored", "tenant")} == {
        "program": "qa", "rows": 3, "stored": 2, "tenant": "acme",
    }  # fmt: skip
    assert second["data"]["finished_at"] > first["data"]["finished_at"]
    assert len({headers["webhook-id"] for headers, _ in received}) == 2


def test_a_batch_without_a_valid_row_is_over_at_once(client: Client, sender: WebhookSender) -> None:
    with receiver() as (url, received):
        client.submit_many("qa", [{"question": 1}], webhook=url)
        assert sender.send_due() == 1
    data = json.loads(received[0][1])["data"]
    assert (data["rows"], data["stored"], data["progress"]["total"]) == (1, 0, 0)


def test_a_batch_that_breaks_off_posts_nothing(client: Client, database: Database) -> None:
    def rows() -> Iterator[dict[str, str]]:
        yield {"question": "?"}
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        client.submit_many("qa", rows(), webhook="https://example.com/hook")
    assert listed(database) == []


def test_the_webhook_of_a_program_is_that_of_its_submits(client: Client, database: Database) -> None:
    client.deploy(dspex.Program("qa", QA, adapter="scripted", webhook="https://example.com/program"))
    execution = client.submit("qa", {"question": "?"})
    other = client.submit("qa", {"question": "?"}, webhook="https://example.com/submit")
    batch = client.submit_many("qa", [{"question": "?"}] * 3)
    with pytest.raises(ExecutionTimedOut):
        next(iter(client.map("qa", [{"question": "?"}], timeout=0.01)))
    found = [(each.execution_id or each.batch_id, each.url.rpartition("/")[2]) for each in reversed(listed(database))]
    assert found == [(execution.id, "program"), (other.id, "submit"), (batch.id, "program")]


def test_what_no_webhook_may_be_sent_to_is_refused_by_submit_and_deploy(backends: Backends, client: Client) -> None:
    settings = Settings.load(database_url=backends.database_url, broker_url=backends.broker_url)
    with Client(settings) as strict:
        for address in ("http://example.com", "https://10.1.2.3/", "https://[::1]/", "https://LOCALHOST/x"):
            with pytest.raises(ValidationError, match="DSPEX_WEBHOOK_PRIVATE"):
                strict.submit("qa", {"question": "?"}, webhook=address)
            with pytest.raises(ValidationError, match="DSPEX_WEBHOOK_PRIVATE"):
                strict.submit_many("qa", [], webhook=address)
            with pytest.raises(ValidationError, match="DSPEX_WEBHOOK_PRIVATE"):
                strict.deploy(dspex.Program("qa", QA, adapter="scripted", webhook=address))
    with pytest.raises(ValidationError, match="without a user"):
        dspex.Program("qa", QA, adapter="scripted", webhook="https://example.com/#x")


def test_an_address_that_answers_byte_by_byte_keeps_no_other_waiting(
    client: Client, sender: WebhookSender, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_sender, "MOST_SECONDS", 0.5)
    ended = threading.Event()

    class Slow(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(204)
            self.flush_headers()
            try:
                for count in range(300):
                    self.wfile.write(b"X: x\r\n" if count < 50 else b"x")
                    ended.wait(0.02)
                self.wfile.write(b"\r\n\r\n")
            except OSError:
                ended.set()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            client.cancel(client.submit("qa", {"question": "?"}, webhook=f"http://127.0.0.1:{server.server_port}/").id)
            assert sender.send_due() == 0
        finally:
            server.shutdown()
            thread.join()
    assert len(listed(database, trouble=True)) == 1


def test_none_is_sent_to_a_private_network(backends: Backends, client: Client, database: Database) -> None:
    settings = Settings.load(database_url=backends.database_url, broker_url=backends.broker_url)
    with receiver() as (url, received), Client(settings) as strict:
        for address in (url, url.replace("http://127.0.0.1", "https://localhost"), "https://169.254.169.254/latest"):
            client.cancel(client.submit("qa", {"question": "?"}, webhook=address).id)
        sender = WebhookSender(strict._session)
        assert sender.send_due() == 0
        sender.close()
        assert received == []
    assert all(each.dead_at is not None for each in listed(database, trouble=True))
    assert len(listed(database, trouble=True)) == 3


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "0.0.0.0", "::1", "fe80::1", "fc00::1",
             "::ffff:10.0.0.1", "2002:0a00:0001::", "100.64.0.1", "224.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1",
             "::7f00:1", "::ffff:0:127.0.0.1", "fec0::1"],
)  # fmt: skip
def test_addresses_that_are_not_of_the_internet(host: str) -> None:
    with pytest.raises(NotPublic):
        public_addresses(host, 443, private=False)
    assert public_addresses(host, 443, private=True)


def test_addresses_of_the_internet() -> None:
    assert public_addresses("93.184.216.34", 443, private=False) == ["93.184.216.34"]
    assert public_addresses("2606:2800:220:1:248:1893:25c8:1946", 443, private=False)
    assert public_addresses("64:ff9b::5db8:d822", 443, private=False)


@pytest.mark.parametrize(
    "webhook", ["ftp://example.com", "example.com", "https://", "https://user:word@example.com", "https://a b", "https://x/#y",
                "https://example.com:0/", "https://example.com/" + "x" * 2000],
)  # fmt: skip
def test_an_address_that_is_none_is_refused(client: Client, webhook: str) -> None:
    with pytest.raises(ValidationError, match="webhook"):
        client.submit("qa", {"question": "?"}, webhook=webhook)
