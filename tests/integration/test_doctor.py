"""``dspex doctor``: a healthy deployment is found healthy, and every fault that is put into one is found."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import pytest
import redis
from sqlalchemy import Connection, create_engine, text

import dspex
from dspex.client.client import Client
from dspex.embedded.embedded_servers import EmbeddedServers
from dspex.embedded.ports import free_port
from dspex.operations.doctor import GROUPS, CheckVerdict, Report, examine
from dspex.operations.doctor.deployment import Deployment
from dspex.operations.doctor.groups import Wave
from dspex.settings import Backends, Settings
from dspex.store import programs, roles
from dspex.store.database import Database
from dspex.store.partitions import first_id
from tests.homes import migrated_servers
from tests.integration.test_cli import Shell
from tests.integration.test_roles import Login, login
from tests.processes import WorkerProcess, mortal, run_dspex

__all__ = ["login"]

OPERATIONS = [group.name for group in GROUPS if not group.requirement]
#: What a deployment of tests has that one in production must not: servers that skip fsync, no beat.
EXPECTED_WARNINGS = {"postgres.durable", "workers.beat", "monitoring.health"}
#: What only production needs, and what a deployment on one machine has no use for.
NOT_APPLICABLE = {
    "backups.recent", "backups.whole", "security.rate_limit", "security.postgres_tls", "security.redis_tls",
    "storage.retention", "monitoring.http", "models.readable",
    "gateway.schedules", "gateway.webhooks", "gateway.signed",
}  # fmt: skip
#: Checks that measure this machine, which other tests use at the same time.
MEASURED = {
    "host.answers", "performance.compilation", "performance.concurrency", "performance.latency",
    "performance.validation", "postgres.reachable", "redis.reachable", "storage.disk",
}  # fmt: skip
#: The groups that only look, so that no worker is needed.
LOOKING = [group.name for group in GROUPS if group.wave is Wave.LOOK]


def test_a_healthy_deployment_is_ready(
    backends: Backends, client: Client, tmp_path: Path, start_worker: Callable[..., WorkerProcess]
) -> None:
    start_worker()
    done = Shell(backends, tmp_path)("doctor", "--json")
    report = json.loads(done.stdout)
    checks = [check for group in report["groups"] for check in group["checks"]]
    wrong = {check["name"]: check["evidence"] for check in checks if check["verdict"] in ("not_met", "unknown")}
    assert wrong.keys() <= MEASURED, wrong
    assert {check["name"] for check in checks if check["verdict"] == "warning"} <= EXPECTED_WARNINGS | MEASURED
    assert {check["name"] for check in checks if check["verdict"] == "not_applicable"} >= NOT_APPLICABLE
    assert client.list() == [], "no user's listing has the doctor's executions"
    assert all(execution.internal for execution in client.list(internal=True, limit=1000))
    assert (client.report().submitted, client.report().left_out > 100) == (0, True)
    assert report["requirements"] == 8
    if not wrong:
        assert (done.returncode, report["ready"], report["requirements_met"]) == (0, True, 8)
        assert report["score"] >= 90
    assert all(check["evidence"] for check in checks)
    assert str(urlsplit(backends.database_url).password) not in done.stdout


def test_it_reports_what_it_can_when_nothing_is_there(tmp_path: Path) -> None:
    nowhere = Backends((f"postgresql://u:hunter22hunter@127.0.0.1:{free_port()}/d", f"redis://127.0.0.1:{free_port()}"))
    only = [part for group in ("adapters", "integration", "postgres", "redis") for part in ("--only", group)]
    shell = Shell(nowhere, tmp_path)
    done = shell("doctor", "--json", *only)
    report = json.loads(done.stdout)
    verdicts = {group["name"]: group["verdict"] for group in report["groups"]}
    assert done.returncode == 3
    assert report["unreachable"]
    assert (verdicts["adapters"], verdicts["integration"], verdicts["postgres"], verdicts["redis"]) == (
        "unknown", "unknown", "not_met", "not_met",
    )  # fmt: skip
    shown = shell("doctor", *only)
    assert shown.returncode == 3
    assert "start Postgres, or correct DSPEX_DATABASE_URL" in shown.stdout
    assert "hunter22" not in done.stdout + shown.stdout + shown.stderr


def test_wrong_settings_are_what_is_found_first(tmp_path: Path, backends: Backends) -> None:
    done = Shell(backends, tmp_path)("doctor", "--json", "--only", "configuration", DSPEX_LEASE_SECONDS="soon")
    (group,) = json.loads(done.stdout)["groups"]
    (settings,) = [check for check in group["checks"] if check["name"] == "configuration.settings"]
    assert done.returncode == 1
    assert settings["verdict"] == "not_met"
    assert "DSPEX_LEASE_SECONDS" in settings["evidence"]


def test_no_worker_and_no_schema(
    backends: Backends, database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DSPEX_DATABASE_URL", backends.database_url)
    monkeypatch.setenv("DSPEX_BROKER_URL", backends.broker_url)
    found = _verdicts(examine(only=["host", "integration", "versions"]))
    assert found["host.alive"] is CheckVerdict.NOT_MET
    assert found["integration.end_to_end"] is found["versions.workers"] is CheckVerdict.UNKNOWN
    with database.transaction() as connection:
        connection.execute(text("UPDATE dspex.schema_version SET version_num = '0000'"))
    assert _verdicts(examine(only=["versions"]))["versions.schema"] is CheckVerdict.NOT_MET
    with database.transaction() as connection:
        connection.execute(text("DROP SCHEMA dspex CASCADE"))
    found = _verdicts(examine(only=["versions", "work"]))
    assert found["versions.schema"] is CheckVerdict.NOT_MET
    assert found["work.waiting"] is CheckVerdict.UNKNOWN


def test_the_role_with_the_least_rights_is_enough(
    login: Login, backends: Backends, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DSPEX_ENV", "production")
    monkeypatch.setenv("DSPEX_DATABASE_URL", login(roles.PRODUCER))
    monkeypatch.setenv("DSPEX_BROKER_URL", backends.broker_url)
    report = examine(only=[*OPERATIONS, "resources"])
    wrong = {
        each.check.name: each.evidence for each in report.results if each.verdict in (NOT_MET, CheckVerdict.UNKNOWN)
    }
    no_worker = {"versions.workers", "workers.trouble", "workers.pump", "work.runnable", "resources.execution"}
    assert set(wrong) <= {"postgres.durable", *no_worker}, wrong
    owner = next(each for each in report.results if each.check.name == "security.owner")
    assert owner.verdict is CheckVerdict.MET


def test_checks_that_ask_for_the_client_at_the_same_time_share_one(
    backends: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSPEX_DATABASE_URL", backends.database_url)
    monkeypatch.setenv("DSPEX_BROKER_URL", backends.broker_url)
    asked = threading.Barrier(4)

    def made(settings: Settings) -> dspex.Client:
        with contextlib.suppress(threading.BrokenBarrierError):  # the others wait for this one
            asked.wait(0.2)
        return dspex.Client(settings)

    monkeypatch.setattr("dspex.operations.doctor.deployment.Client", made)
    deployment = Deployment()
    try:
        with ThreadPoolExecutor(4) as threads:
            clients = list(threads.map(lambda _: deployment.client, range(4)))
        assert clients == [clients[0]] * 4
    finally:
        deployment.close()


# ------------------------------------------------------------------------------------------------------- faults

NOT_MET, WARNING = CheckVerdict.NOT_MET, CheckVerdict.WARNING
#: By the check that finds it: the verdict, and what the evidence names.
FAULTS: dict[str, tuple[CheckVerdict, str]] = {
    "wire.queue": (WARNING, "1 of"),
    "configuration.variables": (WARNING, "did you mean DSPEX_LEASE_SECONDS"),
    "configuration.file_mode": (NOT_MET, "0644"),
    "versions.workers": (NOT_MET, "0.0.9"),
    "versions.dspy": (WARNING, "9.9.9 in worker "),
    "clocks.postgres": (NOT_MET, "3,6"),
    "clocks.redis": (NOT_MET, "3,6"),
    "postgres.durable": (NOT_MET, "fsync"),
    "postgres.connections": (NOT_MET, "40 workers and a producer need up to 373"),
    "redis.memory_policy": (NOT_MET, "allkeys-lru"),
    "workers.trouble": (NOT_MET, "its loop is blocked"),
    "workers.leases": (NOT_MET, "lost-host"),
    "workers.pump": (NOT_MET, "its lead ended"),
    "workers.beat": (WARNING, "never"),
    "workers.deaths": (WARNING, "5 in the last hour"),
    "models.reachable": (NOT_MET, "127.0.0.1"),
    "models.keys": (NOT_MET, "DOCTOR_TEST_KEY (program keyless)"),
    "models.packages": (WARNING, "acme.programs"),
    "models.budgets": (WARNING, "keyless"),
    "work.waiting": (NOT_MET, "1 due"),
    "work.paused": (WARNING, "paused_one"),
    "work.orphaned": (NOT_MET, "1, such as"),
    "work.overdue": (NOT_MET, "1, such as"),
    "work.unclaimed": (NOT_MET, "1, such as"),
    "work.poisoned": (NOT_MET, "1 within a week"),
    "work.dead_letters": (WARNING, "1 within a week"),
    "work.trails": (NOT_MET, "entry 1 was changed"),
    "storage.partitions": (NOT_MET, "lm_calls_"),
    "storage.strays": (WARNING, "executions: 1"),
    "storage.retired": (NOT_MET, "still there: old"),
    "backups.recent": (NOT_MET, "72.0 h ago"),
    "backups.whole": (NOT_MET, "no space left"),
    "monitoring.health": (WARNING, "no check is stored"),
    "monitoring.alerts": (WARNING, "log"),
    "monitoring.deliveries": (WARNING, "1 by email"),
    "monitoring.firing": (WARNING, "half of fine fails"),
    "security.postgres_tls": (NOT_MET, "plain text"),
    "security.redis_tls": (NOT_MET, "plain text"),
    "security.redis_door": (NOT_MET, "anybody"),
    "security.passwords": (NOT_MET, "common password"),
    "security.role": (NOT_MET, "a superuser"),
    "security.owner": (WARNING, "owns the schema"),
    "security.triggers": (NOT_MET, "audit_events_append_only"),
    "security.rate_limit": (WARNING, "no limit"),
    "security.encryption": (NOT_MET, "secretive"),
    "wire.refused": (WARNING, "3 × checksum"),
    "monitoring.http": (WARNING, "not set"),
    "gateway.schedules": (NOT_MET, "1 of 1 are due"),
    "gateway.webhooks": (NOT_MET, "one has been due for"),
    "gateway.signed": (WARNING, "not signed"),
}


@pytest.fixture(scope="module")
def sick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Report]:
    """What is said of a deployment in production with all of these faults."""
    place = tmp_path_factory.mktemp("sick")
    with (
        migrated_servers(place) as servers,
        pytest.MonkeyPatch.context() as patch,
        _bystander() as pid,
    ):
        database = _superuser(servers)
        _spoil_servers(servers, database)
        with database.transaction() as connection:
            _spoil_workers(connection, pid)
            _spoil_programs(connection)
            _spoil_work(connection)
            _spoil_storage(connection)
            _spoil_monitoring(connection)
            _spoil_gateway(connection)
        database.close()
        elsewhere = place / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "dspex.toml").write_text(f'alert_webhook_secret = "{secrets.token_hex()}"\n')
        (elsewhere / "dspex.toml").chmod(0o644)
        patch.chdir(elsewhere)
        # A host that is this machine, and does not look like it.
        patch.setenv("DSPEX_ENV", "production")
        patch.setenv("DSPEX_ALLOW_PLAIN_TEXT", "true")
        patch.setenv("DSPEX_DATABASE_URL", database.url.replace("127.0.0.1", "0.0.0.0"))
        patch.setenv("DSPEX_BROKER_URL", f"redis://0.0.0.0:{urlsplit(servers.broker_url).port}/0")
        patch.setenv("DSPEX_LEASE_SECOND", "7")
        patch.setenv("DSPEX_RETENTION_DAYS", "30")
        yield examine(only=LOOKING, clock=lambda: time.time() + 3650)


@contextmanager
def _bystander() -> Iterator[int]:
    """A process of this user's that stands for a worker without the key."""
    with subprocess.Popen(mortal("-c", "import time; time.sleep(600)")) as process:
        try:
            yield process.pid
        finally:
            process.kill()


@pytest.mark.parametrize("check", FAULTS)
def test_a_fault_is_found(sick: Report, check: str) -> None:
    verdict, named = FAULTS[check]
    (found,) = [each for each in sick.results if each.check.name == check]
    assert found.verdict is verdict, found.evidence
    assert named in found.evidence
    assert found.fix


def test_nothing_else_is_reported(sick: Report) -> None:
    blamed = {each.check.name for each in sick.results if each.verdict in (NOT_MET, WARNING, CheckVerdict.UNKNOWN)}
    assert blamed - set(FAULTS) <= MEASURED
    assert not sick.ready
    assert sick.score < 75


def _verdicts(report: Report) -> dict[str, CheckVerdict]:
    return {each.check.name: each.verdict for each in report.results}


def _superuser(servers: EmbeddedServers) -> Database:
    """The database of the servers, migrated, as their superuser, whose password is one that is tried first."""
    parts = urlsplit(servers.database_url)
    own = servers.home.password("superuser")
    where = f"{parts.hostname}:{parts.port}{parts.path}"
    admin = create_engine(f"postgresql+psycopg://postgres:{own}@{where}")
    with admin.begin() as connection:
        connection.exec_driver_sql("ALTER ROLE postgres PASSWORD 'postgres'")
    admin.dispose()
    return Database(f"postgresql://postgres:postgres@{where}")


def _spoil_servers(servers: EmbeddedServers, database: Database) -> None:
    with redis.Redis.from_url(servers.broker_url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("requirepass", "")
        client.lpush("dspex", "not a message")


def _worker(connection: Connection, *, host: str = "far-away", pid: int = 1, silent: int = 0, **fields: Any) -> UUID:
    id = uuid4()
    values = {
        "version": "0.0.9",
        "dspy": "9.9.9",
        "state": "running",
        "trouble": None,
        "stopped": None,
        "lease": 300,
        **fields,
    }
    connection.execute(
        text("""INSERT INTO dspex.workers (id, host, pid, version, dspy, state, concurrency, running, lease_seconds,
                trouble, started_at, heartbeat_at, stopped_at) VALUES (:id, :host, :pid, :version, :dspy, :state, 10, 0,
                :lease, :trouble, now() - interval '1 day', now() - make_interval(secs => :silent), :stopped)"""),
        {"id": id, "host": host, "pid": pid, "silent": silent, **values},
    )
    return id


def _spoil_workers(connection: Connection, pid: int) -> None:
    for _ in range(38):
        _worker(connection)
    _worker(connection, trouble="its loop is blocked")
    _worker(connection, host=socket.gethostname(), pid=pid)
    leader = _worker(connection, host="lost-host", silent=900, lease=5)
    connection.execute(
        text("INSERT INTO dspex.leaderships VALUES ('pump', :id, now() - interval '1 hour', NULL)"), {"id": leader}
    )
    for _ in range(5):
        _worker(connection, state="dead", stopped=datetime.now(UTC))


def _spoil_programs(connection: Connection) -> None:
    qa = dspex.signature("question -> answer")
    secretive = dspex.signature(":string(secret=true) pin -> :string answer")
    for program in (
        dspex.Program("fine", qa, adapter="scripted"),
        dspex.Program("paused_one", qa, adapter="scripted"),
        dspex.Program("secretive", secretive, adapter="scripted"),
        dspex.Program("foreign", qa, module="acme.programs:make", model="openai/test",
                      limits=dspex.Limits(max_cost_usd=1)),
        dspex.Program("keyless", qa, model="openai/test", api_base=f"http://127.0.0.1:{free_port()}/v1",
                      api_key_env="DOCTOR_TEST_KEY"),
    ):  # fmt: skip
        programs.deploy(connection, program)
    programs.set_pause(connection, "paused_one", paused=True)


def _execution(connection: Connection, status: str, *, id: UUID | None = None, **columns: str) -> UUID:
    """An execution with nothing on its trail; ``columns`` are SQL."""
    id = id or UUID(int=first_id(datetime.now(UTC)).int | secrets.randbits(64))
    values = {"program": "'fine'", "run_at": "now() + interval '1 hour'", **columns}
    connection.execute(
        text(f"""INSERT INTO dspex.executions (id, version, status, priority, attempt, max_attempts, timeout_seconds,
                 created_at, audit_seq, audit_hash, inputs, {", ".join(values)})
                 VALUES (:id, 'v', :status, 5, 1, 3, 30, now(), 0, '', '{{}}', {", ".join(values.values())})"""),
        {"id": id, "status": status},
    )
    return id


def _spoil_work(connection: Connection) -> None:
    lost = connection.execute(text("SELECT id FROM dspex.workers WHERE host = 'lost-host'")).scalar_one()
    alive = connection.execute(text("SELECT id FROM dspex.workers WHERE trouble IS NOT NULL")).scalar_one()
    _execution(connection, "queued", run_at="now() - interval '1 hour'")
    _execution(connection, "queued", program="'paused_one'", run_at="now() - interval '1 hour'")
    _execution(connection, "queued", dispatched_at="now() - interval '1 hour'")
    _execution(connection, "running", worker_id=f"'{lost}'", deadline_at="now() + interval '1 hour'")
    _execution(connection, "running", worker_id=f"'{alive}'", deadline_at="now() - interval '1 hour'")
    _execution(connection, "failed", error="""'{"code": "poisoned"}'""", finished_at="now()")
    _execution(connection, "failed", error="""'{"code": "provider_unavailable"}'""", finished_at="now()")
    # The check names the faults of the latest first: this one is later than those of the same millisecond.
    edited = _execution(connection, "queued", id=first_id(datetime.now(UTC) + timedelta(milliseconds=1)))
    connection.execute(text("ALTER TABLE dspex.audit_events DISABLE TRIGGER audit_events_of_transitions"))
    connection.execute(
        text("""INSERT INTO dspex.audit_events (execution_id, seq, attempt, at, events, hash)
                VALUES (:id, 1, 0, now(), '[{"kind": "submitted"}]', '\\x00')"""),
        {"id": edited},
    )
    connection.execute(text("ALTER TABLE dspex.audit_events ENABLE TRIGGER audit_events_of_transitions"))


def _spoil_storage(connection: Connection) -> None:
    now = first_id(datetime.now(UTC))
    first, last = (first_id(datetime(2019, month, 1, tzinfo=UTC)) for month in (1, 2))
    ahead = text("SELECT name FROM dspex.periods WHERE low > :now LIMIT 1")
    name = connection.execute(ahead, {"now": now}).scalar_one()
    connection.execute(text(f"DROP TABLE dspex.lm_calls_{name}"))
    connection.execute(
        text("INSERT INTO dspex.periods (name, low, high) VALUES ('old', :low, :high)"), {"low": first, "high": last}
    )
    _execution(connection, "cancelled", id=first_id(datetime(2018, 6, 1, tzinfo=UTC)), finished_at="now()")
    connection.execute(
        text("""INSERT INTO dspex.backups (at, ok, host, path, error) VALUES
             (now() - interval '3 days', true, 'h', '/b', NULL), (now(), false, 'h', '/b', 'no space left on it')""")
    )


def _spoil_gateway(connection: Connection) -> None:
    """No gateway runs: a schedule is late, and so is a webhook."""
    connection.execute(
        text("""
        INSERT INTO dspex.schedules (name, program, inputs, cron, timezone, missed, priority, next_at)
        VALUES ('late', 'fine', '{}', '0 7 * * *', 'UTC', 'skip', 5, now() - interval '1 h')
    """)
    )
    connection.execute(
        text("""
        INSERT INTO dspex.webhook_deliveries (execution_id, url, next_at)
        VALUES (gen_random_uuid(), 'https://example.com', now() - interval '1 h')
    """)
    )


def _spoil_monitoring(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE dspex.audit_events DISABLE TRIGGER audit_events_append_only"))
    connection.execute(
        text("""INSERT INTO dspex.refused_messages (day, reason, count, first_at, last_at, last_worker_id)
             VALUES (current_date, 'checksum', 3, now(), now(), :id)"""),
        {"id": uuid4()},
    )
    alert = connection.execute(
        text("""INSERT INTO dspex.alerts
             (rule, subject, state, value, threshold, summary, since, seen_at, fired_at)
             VALUES ('error_rate', 'fine', 'firing', 0.5, 0.05, 'half of fine fails', now(), now(), now())
             RETURNING id""")
    ).scalar_one()
    connection.execute(
        text("""INSERT INTO dspex.alert_deliveries
             (alert_id, event, value, summary, channel, created_at, attempts, next_at, error)
             VALUES (:id, 'firing', 0.5, 'half', 'email', now() - interval '1 hour', 9, now(), 'refused')"""),
        {"id": alert},
    )


def test_unknown_groups_are_refused(fork_server: None, tmp_path: Path) -> None:
    environment = os.environ | {"DSPEX_HOME": str(tmp_path)}
    done = run_dspex("doctor", "--only", "telepathy", environment=environment, directory=tmp_path)
    assert done.returncode == 2
    assert "postgres" in done.stderr
