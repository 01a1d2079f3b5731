"""``dspex doctor`` on servers with one fault, or with what only looks like one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
from psycopg.conninfo import conninfo_to_dict

import dspex
from dspex.embedded.embedded_servers import EmbeddedServers
from dspex.embedded.ports import free_port
from dspex.operations.doctor import CheckOutcome, CheckVerdict, examine
from dspex.operations.doctor.deployment import Deployment
from dspex.operations.doctor.operations import security_checks
from dspex.operations.health.conditions import MODEL
from dspex.settings import Backends
from dspex.store import programs, roles
from dspex.store.database import Database
from dspex.store.facts import server_facts
from dspex.store.migrate import make_roles
from dspex.store.operations import health
from tests.chaos.proxy import Proxy
from tests.homes import migrated_servers
from tests.processes import WorkerProcess

PASSWORD = "a-long-one-of-these-tests"
MET, NOT_MET, WARNING = CheckVerdict.MET, CheckVerdict.NOT_MET, CheckVerdict.WARNING


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, fork_server: None) -> Iterator[EmbeddedServers]:
    """Servers of these tests' own, to be spoiled, with a producer's login."""
    with migrated_servers(tmp_path_factory.mktemp("doctor")) as running:
        database = Database(running.database_url, pool_size=1)
        database.guard(make_roles)
        with database.transaction() as connection:
            connection.exec_driver_sql(f"CREATE ROLE app LOGIN PASSWORD '{PASSWORD}' IN ROLE {roles.PRODUCER}")
        database.close()
        yield running


@pytest.fixture
def owner(servers: EmbeddedServers) -> Iterator[psycopg.Connection]:
    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def admin(servers: EmbeddedServers) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(servers.broker_url) as opened:
        yield opened


@pytest.fixture
def producer(servers: EmbeddedServers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The settings are of a producer in production. Its URL of Postgres."""
    parts = urlsplit(servers.database_url)
    url = parts._replace(netloc=f"app:{PASSWORD}@{parts.netloc.rpartition('@')[2]}").geturl()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DSPEX_ENV", "production")
    monkeypatch.setenv("DSPEX_DATABASE_URL", url)
    monkeypatch.setenv("DSPEX_BROKER_URL", servers.broker_url)
    return url


def found(group: str) -> dict[str, CheckOutcome]:
    return {each.check.name.partition(".")[2]: each for each in examine(only=[group]).results}


# ---------------------------------------------------------------------------------------------------------- passwords


def test_passwords_among_the_parameters_of_urls(
    producer: str, servers: EmbeddedServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = conninfo_to_dict(producer)
    where = f"{given['host']}:{given['port']}/{given['dbname']}"
    broker = urlsplit(servers.broker_url)
    monkeypatch.setenv("DSPEX_DATABASE_URL", f"postgresql://{where}?user=app&password={PASSWORD}")
    monkeypatch.setenv("DSPEX_BROKER_URL", f"redis://127.0.0.1:{broker.port}/0?password={broker.password}")
    of = found("security")
    assert (of["postgres_door"].verdict, of["postgres_door"].evidence) == (MET, "a wrong password is refused")
    assert (of["redis_door"].verdict, of["redis_door"].evidence) == (MET, "refused without a password")
    assert of["passwords"].verdict is MET, of["passwords"].evidence


def test_a_password_of_the_environment(producer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    monkeypatch.setenv("DSPEX_DATABASE_URL", producer.replace(f":{PASSWORD}@", "@"))
    of = found("security")
    assert (of["postgres_door"].verdict, of["postgres_door"].evidence) == (MET, "a wrong password is refused")
    assert of["passwords"].verdict is MET, of["passwords"].evidence


def test_a_redis_that_takes_no_connection_refused_no_password(producer: str, admin: redis.Redis) -> None:
    deployment = Deployment()
    admin.ping()
    admin.config_set("maxclients", 1)
    try:
        of = security_checks.redis_door.find(deployment)
    finally:
        admin.config_set("maxclients", 1000)
        deployment.close()
    assert of.verdict is CheckVerdict.UNKNOWN
    assert "max number of clients" in of.evidence


def test_a_postgres_that_takes_no_connection_refused_no_password(
    producer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = psycopg.connect
    with Proxy(producer) as proxy:
        monkeypatch.setenv("DSPEX_DATABASE_URL", proxy.url)
        deployment = Deployment()

        def cut_before_a_wrong_one(url: str, **options: object) -> psycopg.Connection:
            if "password" in options:
                proxy.cut()
            return connect(url, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(psycopg, "connect", cut_before_a_wrong_one)
        of = security_checks.postgres_door.find(deployment)
        deployment.close()
    assert of.verdict is CheckVerdict.UNKNOWN
    assert "did not come to ask" in of.evidence


# --------------------------------------------------------------------------------------------------------- connections


def test_connections_of_other_roles_count(producer: str, servers: EmbeddedServers, owner: psycopg.Connection) -> None:
    def counted(url: str) -> int:
        database = Database(url, pool_size=1)
        try:
            return database.run(server_facts.state).connections
        finally:
            database.close()

    with ExitStack() as opened:
        for _ in range(5):
            opened.enter_context(psycopg.connect(servers.database_url))
        assert counted(producer) >= 7


@pytest.mark.parametrize(
    ("of", "most", "verdict"),
    [("ROLE app", 30, NOT_MET), ("ROLE app", 60, MET), ("DATABASE dspex", 30, NOT_MET), ("DATABASE dspex", 60, MET)],
)
def test_a_connection_limit(
    producer: str,
    owner: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    of: str,
    most: int,
    verdict: CheckVerdict,
) -> None:
    # A limit that the doctor's own connections do not reach, nor those of earlier tests that are still ending.
    monkeypatch.setenv("DSPEX_CLIENT_CONNECTIONS", "20")
    owner.execute(f"ALTER {of} CONNECTION LIMIT {most}".encode())
    try:
        room = found("postgres")["connections"]
    finally:
        owner.execute(f"ALTER {of} CONNECTION LIMIT -1".encode())
    assert room.verdict is verdict, room.evidence
    assert f"the {of.lower()}: " in room.evidence
    assert f"of {most} used" in room.evidence


def test_a_limit_of_another_role_that_is_nearly_used(producer: str, owner: psycopg.Connection) -> None:
    owner.execute(f"CREATE ROLE busy LOGIN PASSWORD '{PASSWORD}' CONNECTION LIMIT 2".encode())
    url = producer.replace("//app:", "//busy:")
    with psycopg.connect(url), psycopg.connect(url):
        room = found("postgres")["connections"]
    owner.execute("DROP ROLE busy")
    assert room.verdict is WARNING
    assert "the role busy: 2 of 2 used" in room.evidence


def test_transactions_that_this_role_may_not_see(producer: str) -> None:
    of = found("postgres")["long_transactions"]
    assert of.verdict is CheckVerdict.NOT_APPLICABLE
    assert "may not see the transactions of other roles" in of.evidence


# --------------------------------------------------------------------------------------------------------------- Redis


def test_a_redis_that_refuses_writes(producer: str, admin: redis.Redis) -> None:
    admin.config_set("min-replicas-to-write", 1)
    try:
        role = found("redis")["role"]
    finally:
        admin.config_set("min-replicas-to-write", 0)
    assert role.verdict is NOT_MET
    assert "NOREPLICAS" in role.evidence
    assert "min-replicas-to-write 0" in role.fix
    assert found("redis")["role"].verdict is MET


# -------------------------------------------------------------------------------------------------------- beat and work


def test_an_old_health_check_says_nothing_about_now(
    producer: str, servers: EmbeddedServers, owner: psycopg.Connection
) -> None:
    component = {"status": "healthy", "latency_ms": 1.0, "since": None, "details": {}, "fix": None}
    report = {"interval_seconds": 300, "components": {"postgres": component, f"{MODEL}m": component}}
    database = Database(servers.database_url, pool_size=1)
    database.run(partial(health.record, overall="healthy", worker_id=None, report=report))
    database.close()

    def verdicts(age: str) -> tuple[CheckVerdict, CheckVerdict, CheckVerdict]:
        owner.execute(f"UPDATE dspex.health_checks SET at = clock_timestamp() - interval '{age}'".encode())
        of = found("monitoring")
        return of["health"].verdict, of["models"].verdict, found("workers")["beat"].verdict

    # Beat's own interval counts, not the setting of this machine.
    assert verdicts("10 minutes") == (MET, MET, MET)
    assert verdicts("1 day") == (WARNING, CheckVerdict.NOT_APPLICABLE, WARNING)


def test_work_that_its_limits_hold_back_needs_no_workers(producer: str, owner: psycopg.Connection) -> None:
    qa = dspex.signature("question -> answer")
    database = Database(producer, pool_size=1)
    for name, limits in (("limited", dspex.Limits(per_minute=1)), ("plain", dspex.Limits(max_cost_usd=1.0))):
        program = dspex.Program(name, qa, adapter="scripted", limits=limits)
        database.run(partial(programs.deploy, program=program))
    database.close()
    with dspex.Client() as client:
        client.submit("limited", {"question": "?"})
        owner.execute("UPDATE dspex.executions SET run_at = now() - interval '1 h'")
        waiting = found("work")["waiting"]
        assert waiting.verdict is MET
        assert "1 of programs with limits, the oldest for 3,6" in waiting.evidence
        client.submit("plain", {"question": "?"})
        owner.execute("UPDATE dspex.executions SET run_at = now() - interval '1 h'")
        assert found("work")["waiting"].verdict is NOT_MET, "a budget makes nothing wait"


def test_alerts_for_a_channel_that_was_removed(
    producer: str, owner: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner.execute("""
        WITH alert AS (
            INSERT INTO dspex.alerts (rule, subject, state, value, threshold, summary, since, seen_at, fired_at)
            VALUES ('error_rate', 'fine', 'firing', 0.5, 0.05, 'half of fine fails', now(), now(), now()) RETURNING id)
        INSERT INTO dspex.alert_deliveries (alert_id, event, value, summary, channel, created_at, attempts, next_at)
        SELECT id, 'firing', 0.5, 'half', channel, now() - interval '1 hour', 9, now()
        FROM alert, unnest(ARRAY['log', 'webhook']) AS channel""")
    try:
        for channels, verdict, evidence in (
            ("log", NOT_MET, "1 by log not delivered within 5 minutes"),
            ("none", WARNING, "2 by log, webhook, which DSPEX_ALERTS does not name here"),
        ):
            monkeypatch.setenv("DSPEX_ALERTS", channels)
            deliveries = found("monitoring")["deliveries"]
            assert deliveries.verdict is verdict
            assert evidence in deliveries.evidence
    finally:
        owner.execute("DELETE FROM dspex.alert_deliveries")
        owner.execute("DELETE FROM dspex.alerts")


def test_a_worker_is_probed_where_it_listens(
    producer: str, servers: EmbeddedServers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    listening = {"DSPEX_HTTP_PORT": str(free_port()), "DSPEX_HTTP_ADDRESS": "127.0.0.2"}
    for name, value in listening.items():
        monkeypatch.setenv(name, value)
    backends = Backends((servers.database_url, servers.broker_url))
    worker = WorkerProcess(backends, tmp_path / "worker.log", {"DSPEX_ENV": "test", **listening})
    try:
        worker.wait_until_ready()
        http = found("monitoring")["http"]
    finally:
        worker.stop()
    assert (http.verdict, http.evidence) == (MET, f"port {listening['DSPEX_HTTP_PORT']} answers")


def test_a_package_of_the_gateway_that_is_too_old(
    producer: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    metadata = tmp_path / "mcp-1.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: mcp\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    packages = found("versions")["packages"]
    assert packages.verdict is NOT_MET
    assert "mcp is 1.0, but " in packages.evidence
