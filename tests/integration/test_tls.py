"""TLS to Postgres and Redis: everybody uses it, everybody verifies, and who does not fit is told why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
import trustme
from uuid_utils.compat import uuid7

import dspex
from dspex.embedded.embedded_servers import EmbeddedServers
from dspex.errors import BackendUnavailable
from dspex.publish.broker import Broker
from dspex.settings import Backends
from dspex.store.database import Database
from dspex.store.operations import health
from tests.processes import WorkerProcess, command, environment_of, run_module
from tests.tls_proxy import TlsProxy
from tests.waiting import wait_for

QA = dspex.signature("question -> answer")


class Tls(NamedTuple):
    """Both servers behind TLS; ``files`` has the certificates of the authority, of another one, and a client's own."""

    postgres: TlsProxy
    redis: TlsProxy
    files: Path


@pytest.fixture(scope="module")
def tls(servers: EmbeddedServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tls]:
    home = tmp_path_factory.mktemp("tls")
    authority, stranger = trustme.CA(), trustme.CA()
    for name, ca in (("ca", authority), ("stranger", stranger)):
        ca.cert_pem.write_to_path(str(home / f"{name}.pem"))
    own = authority.issue_cert("dspex@localhost")
    own.cert_chain_pems[0].write_to_path(str(home / "own.pem"))
    own.private_key_pem.write_to_path(str(home / "own.key"))
    (home / "own.key").chmod(0o600)
    certificate = authority.issue_cert("localhost")
    with (
        TlsProxy(servers.database_url, certificate, clients=authority) as postgres,
        TlsProxy(servers.broker_url, certificate, clients=authority) as redis,
    ):
        yield Tls(postgres, redis, home)


@pytest.fixture
def over_tls(tls: Tls, backends: Backends) -> Backends:
    return Backends((database_url(tls, backends), broker_url(tls, backends)))


def database_url(tls: Tls, backends: Backends, ca: str = "ca", own: bool = True, host: str = "localhost") -> str:
    query = f"sslmode=verify-full&sslrootcert={tls.files / ca}.pem"
    query += f"&sslcert={tls.files}/own.pem&sslkey={tls.files}/own.key" if own else ""
    return tls.postgres.url("postgresql", urlsplit(backends.database_url).path[1:], query, host=host)


def broker_url(tls: Tls, backends: Backends, ca: str = "ca", own: bool = True, host: str = "localhost") -> str:
    query = f"ssl_ca_certs={tls.files / ca}.pem"
    query += f"&ssl_certfile={tls.files}/own.pem&ssl_keyfile={tls.files}/own.key" if own else ""
    return tls.redis.url("rediss", urlsplit(backends.broker_url).path[1:], query, host=host)


def test_producer_worker_and_beat_work_over_tls(over_tls: Backends, tmp_path: Path) -> None:
    worker = WorkerProcess(over_tls, tmp_path / "worker.log", {"DSPEX_ENV": "production"})
    database = Database(over_tls.database_url, pool_size=1)
    try:
        worker.wait_until_ready()
        with (
            command(over_tls, tmp_path / "beat.log", "beat", DSPEX_HEALTH_INTERVAL_SECONDS=1),
            dspex.Client(database_url=over_tls.database_url, broker_url=over_tls.broker_url) as client,
        ):
            client.deploy(dspex.Program("qa", QA, adapter="scripted", model="smollm2"))
            execution = client.submit("qa", {"question": "Is it encrypted?"})
            assert execution.result(timeout=60).answer
            wait_for(lambda: database.run(health.latest), "a health check that beat asked for")
    finally:
        worker.stop()
        database.close()


def test_flower_reads_the_queues_over_tls(over_tls: Backends, tmp_path: Path) -> None:
    ask = (
        "import asyncio; from flower.utils.broker import Broker; from workers.app import app; c = app.conf; "
        "broker = Broker(c.broker_url, broker_options=c.broker_transport_options, broker_use_ssl=c.broker_use_ssl); "
        "print(asyncio.run(broker.queues(['dspex'])))"
    )
    with Broker(over_tls.broker_url).client() as redis:
        redis.lpush("dspex", "one", "two")
    done = run_module("-c", ask, environment=environment_of(over_tls, {}), directory=tmp_path)
    assert "'messages': 2" in done.stdout, done.stderr


Refused = Callable[[Tls, Backends], str]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        pytest.param(
            lambda t, b: database_url(t, b, ca="stranger"), "certificate verify failed", id="another authority"
        ),
        pytest.param(lambda t, b: database_url(t, b, host="127.0.0.1"), "does not match host name", id="another host"),
        # With TLS 1.3 the connection could be closed before the client has read why.
        pytest.param(
            lambda t, b: f"{database_url(t, b, own=False)}&ssl_max_protocol_version=TLSv1.2",
            "SSL|certificate",
            id="no certificate",
        ),
    ],
)
def test_a_postgres_that_does_not_fit_is_out_of_reach(tls: Tls, backends: Backends, url: Refused, reason: str) -> None:
    with (
        dspex.Client(database_url=url(tls, backends), broker_url=backends.broker_url) as client,
        pytest.raises(BackendUnavailable, match=reason) as refused,
    ):
        client.list()
    assert "Postgres at postgresql://" in str(refused.value)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        pytest.param(lambda t, b: broker_url(t, b, ca="stranger"), "CERTIFICATE_VERIFY_FAILED", id="another authority"),
        pytest.param(lambda t, b: broker_url(t, b).partition("?")[0], "CERTIFICATE_VERIFY_FAILED", id="nothing said"),
        pytest.param(lambda t, b: broker_url(t, b, host="127.0.0.1"), "IP address mismatch", id="another host"),
        pytest.param(lambda t, b: broker_url(t, b, own=False), "ssl_certfile and ssl_keyfile in", id="no certificate"),
    ],
)
def test_a_redis_that_does_not_fit_is_out_of_reach(tls: Tls, backends: Backends, url: Refused, reason: str) -> None:
    broker = Broker(url(tls, backends))
    try:
        with pytest.raises(BackendUnavailable, match=reason) as refused:
            broker.publish([uuid7()], program="qa", priority=5)
    finally:
        broker.close()
    assert "Redis at rediss://" in str(refused.value)
