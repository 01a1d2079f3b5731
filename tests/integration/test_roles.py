"""Postgres roles: the whole path runs with the rights of each, and what a role may not do is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from click.testing import CliRunner
from psycopg import sql

import dspex
from dspex.cli.operate.migrate_command import migrate as migrate_command
from dspex.embedded.embedded_servers import EmbeddedServers
from dspex.errors import ConfigurationError
from dspex.serve.access.access_keys import AccessKeys
from dspex.settings import Backends
from dspex.store import partitions, roles
from dspex.store.database import Database
from dspex.store.migrate import make_roles, upgrade
from dspex.store.operations import retention
from dspex.store.tables import metadata
from tests.integration.test_optimizations import ALLOWED as OPTIMIZING
from tests.integration.test_optimizations import ROWS, deploy, optimize
from tests.model_server import ModelServer, Step, model_server
from tests.processes import WorkerProcess, environment_of, run_module
from tests.waiting import wait_for

__all__ = ["model_server"]

QA = dspex.signature("question -> answer")
PASSWORD = "only-for-tests"
Login = Callable[[str], str]


@pytest.fixture
def login(backends: Backends) -> Iterator[Login]:
    """The URL of a login of this test's own that is a member of a role. The roles are in force."""
    owner = Database(backends.database_url, pool_size=1)
    owner.guard(make_roles)
    owner.close()
    made: dict[str, str] = {}

    def url(role: str) -> str:
        parts = urlsplit(backends.database_url)
        name = f"{parts.path[1:]}_{role}"
        if name not in made:
            statement = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} IN ROLE {}")
            run(backends.database_url, statement.format(sql.Identifier(name), PASSWORD, sql.Identifier(role)))
            made[name] = parts._replace(netloc=f"{name}:{PASSWORD}@{parts.netloc.rpartition('@')[2]}").geturl()
        return made[name]

    yield url
    for name in made:
        run(backends.database_url, sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def run(url: str, statement: sql.Composable | str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)  # type: ignore[arg-type]


@contextmanager
def client_of(url: str, backends: Backends) -> Iterator[dspex.Client]:
    with dspex.Client(database_url=url, broker_url=backends.broker_url) as client:
        yield client


def test_the_whole_path_runs_with_the_rights_of_each_role(login: Login, backends: Backends, tmp_path: Path) -> None:
    as_worker = Backends((login(roles.WORKER), backends.broker_url))
    worker = WorkerProcess(as_worker, tmp_path / "worker.log", {})
    try:
        worker.wait_until_ready()
        with client_of(login(roles.PRODUCER), backends) as producer:
            limits = dspex.Limits(concurrency=5, per_minute=100, max_cost_usd=1.0)
            producer.deploy(dspex.Program("qa", QA, adapter="scripted", model="openai/gpt-4o-mini", limits=limits))
            fails = {"fail": {"code": "provider_unavailable", "times": 9}}
            retry = dspex.Retry(max_attempts=2, backoff=0)
            producer.deploy(dspex.Program("failing", QA, adapter="scripted", module_options=fails, retry=retry))
            done = producer.submit("qa", {"question": "Who may?"}, idempotency_key="once")
            assert done.result(timeout=60).answer
            assert producer.submit("qa", {"question": "Who may?"}, idempotency_key="once").id == done.id
            failed = producer.submit("failing", {"question": "Who may not?"})
            wait_for(lambda: producer.get(failed.id).status == "failed", "the failure to be recorded")
            batch = producer.submit_many("qa", [{"question": str(n)} for n in range(5)])
            assert len(list(batch.as_completed(timeout=60))) == 5
            producer.pause("qa")
            waiting = producer.submit("qa", {"question": "Later?"})
            waiting.cancel()
            producer.resume("qa")
            producer.retry(failed.id)
            wait_for(lambda: producer.get(failed.id).status == "failed", "the second failure")
            with client_of(login(roles.WORKER), backends) as operator:
                operator.retry(failed.id)
            wait_for(lambda: producer.get(failed.id).attempts == 6, "the attempts after a retry with a worker's rights")
            wait_for(lambda: producer.get(failed.id).status == "failed", "the third failure")
        with client_of(login(roles.READER), backends) as reader:
            assert {e.program for e in reader.list()} == {"qa", "failing"}
            trail = reader.get(done.id).audit_trail
            assert trail["completed"]
            assert trail.verify()
        with psycopg.connect(login(roles.WORKER), autocommit=True) as connection:
            for column in ("result", "error", "metrics"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege, match="do not change without a transition"):
                    connection.execute(
                        f"UPDATE dspex.executions SET {column} = '{{}}' WHERE id = %s".encode(), [done.id]
                    )
        reading, refused = client_of(login(roles.READER), backends), pytest.raises(ConfigurationError, match="may not")
        with reading as reader, refused:
            reader.submit("qa", {"question": "May a reader?"})
    finally:
        worker.stop()
    assert "permission denied" not in worker.log.read_text()


PRODUCER_MAY_NOT = (
    "UPDATE dspex.executions SET result = '{}'",
    "UPDATE dspex.executions SET worker_id = NULL, status = 'completed'",
    "UPDATE dspex.executions SET inputs = '{}'",
    "UPDATE dspex.executions SET metrics = '{}'",
    "UPDATE dspex.executions SET attempt = 0",
    "INSERT INTO dspex.executions (id, result) VALUES (gen_random_uuid(), '{}')",
    "DELETE FROM dspex.executions",
    "INSERT INTO dspex.workers (id) VALUES (gen_random_uuid())",
    "UPDATE dspex.workers SET stopped_at = now()",
    "UPDATE dspex.budgets SET spent_usd = 0",
    "INSERT INTO dspex.lm_calls (execution_id) VALUES (gen_random_uuid())",
    "SELECT response FROM dspex.lm_calls",
    "SELECT request FROM dspex.lm_calls",
    "UPDATE dspex.program_versions SET content = '{}'",
    "DELETE FROM dspex.programs",
    "SELECT dspex.retire_executions('2020_01_01', now())",
    "SELECT dspex.remove_requests(now(), 1)",
    "SELECT dspex.make_period('2020_01_01', gen_random_uuid(), gen_random_uuid())",
)
WORKER_MAY_NOT = (
    "INSERT INTO dspex.executions (id, result) VALUES (gen_random_uuid(), '{}')",
    "UPDATE dspex.executions SET inputs = '{}'",
    "UPDATE dspex.executions SET program = 'other'",
    "DELETE FROM dspex.executions",
    "INSERT INTO dspex.program_versions (name) VALUES ('x')",
    "UPDATE dspex.webhook_deliveries SET url = 'https://other.example'",
    "UPDATE dspex.programs SET version = 'other'",
    "UPDATE dspex.lm_calls SET response = '{}'",
    "UPDATE dspex.lm_calls SET request = '{}'",
    "DELETE FROM dspex.lm_calls",
    "UPDATE dspex.periods SET retired_at = NULL",
    "SELECT dspex.put_back('executions', 'executions', '{}')",
)
READER_MAY_NOT = (
    *PRODUCER_MAY_NOT,
    *WORKER_MAY_NOT,
    "UPDATE dspex.executions SET status = 'cancelled'",
    "UPDATE dspex.programs SET paused_at = now()",
    "INSERT INTO dspex.audit_events (execution_id) VALUES (gen_random_uuid())",
    "SELECT FROM dspex.executions FOR UPDATE",
)
NOBODY_MAY = (
    "UPDATE dspex.audit_events SET events = '[]'",
    "DELETE FROM dspex.audit_events",
    "TRUNCATE dspex.audit_events",
    "TRUNCATE dspex.executions CASCADE",
    "DROP TABLE dspex.audit_events",
    "ALTER TABLE dspex.audit_events DISABLE TRIGGER ALL",
    "CREATE TABLE dspex.mine (id int)",
    "CREATE FUNCTION dspex.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "DELETE FROM dspex.executions_default",
    "SELECT FROM dspex.audit_events_default",
    "UPDATE dspex.schema_version SET version_num = '9999'",
    "SET SESSION AUTHORIZATION dspex",
)


def test_what_a_role_may_not_do_is_refused(login: Login) -> None:
    for role, statements in (
        (roles.PRODUCER, PRODUCER_MAY_NOT), (roles.WORKER, WORKER_MAY_NOT), (roles.READER, READER_MAY_NOT)
    ):  # fmt: skip
        allowed = []
        with psycopg.connect(login(role), autocommit=True) as connection:
            for statement in (*statements, *NOBODY_MAY):
                try:
                    connection.execute(statement)
                except psycopg.errors.InsufficientPrivilege:
                    continue
                except psycopg.Error as error:
                    allowed.append(f"{statement}: {error}")
                else:
                    allowed.append(statement)
        assert allowed == [], role


def test_a_producer_cannot_settle_what_runs_nor_take_it(login: Login, client: dspex.Client) -> None:
    """Column rights leave it only the transitions of an operator: the constraint on worker_id refuses the others."""
    client.deploy(dspex.Program("qa", QA, adapter="scripted"))
    id = client.submit("qa", {"question": "?"}).id
    with psycopg.connect(login(roles.PRODUCER), autocommit=True) as connection:
        for status in ("running", "completed", "failed"):
            with pytest.raises(psycopg.errors.CheckViolation):
                connection.execute(
                    "UPDATE dspex.executions SET status = %s, finished_at = now(), audit_seq = audit_seq + 1, "
                    "audit_hash = '' WHERE id = %s",
                    (status, id),
                )


def test_the_command_makes_the_roles_and_a_later_migration_keeps_their_rights(
    backends: Backends, login: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSPEX_DATABASE_URL", backends.database_url)
    monkeypatch.setenv("DSPEX_BROKER_URL", backends.broker_url)
    told = CliRunner().invoke(migrate_command, ["--roles"], catch_exceptions=False).output
    assert all(role in told for role in roles.ROLES)
    assert "CREATE ROLE my_app LOGIN IN ROLE dspex_producer" in told
    run(backends.database_url, "REVOKE SELECT ON dspex.workers FROM dspex_reader")
    run(backends.database_url, "GRANT UPDATE (result), DELETE ON dspex.executions TO dspex_reader")
    CliRunner().invoke(migrate_command, [], catch_exceptions=False)
    run(login(roles.READER), "SELECT FROM dspex.workers")
    for statement in ("UPDATE dspex.executions SET result = NULL", "DELETE FROM dspex.executions"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            run(login(roles.READER), statement)


def test_who_lacks_a_right_of_this_version_learns_that_migrating_gives_it(
    backends: Backends, login: Login, client: dspex.Client
) -> None:
    """As after an upgrade of a producer before `dspex migrate`, which was run by an earlier version."""
    client.deploy(dspex.Program("qa", QA, adapter="scripted"))
    execution = client.submit("qa", {"question": "?"})
    execution.cancel()
    run(backends.database_url, "REVOKE UPDATE (expires_at) ON dspex.executions FROM dspex_producer")
    with client_of(login(roles.PRODUCER), backends) as producer:
        with pytest.raises(ConfigurationError, match="run `dspex migrate` of this version as the owner"):
            producer.retry(execution.id)
        assert producer.get(execution.id).status == "cancelled"


def test_what_beat_asks_for_runs_with_a_workers_rights(login: Login, backends: Backends, tmp_path: Path) -> None:
    code = "from workers import tasks as t; print(t.health(), t.alerts(), t.upkeep())"
    as_worker = environment_of(Backends((login(roles.WORKER), backends.broker_url)), {"DSPEX_RETENTION_DAYS": 1})
    done = run_module("-c", code, environment=as_worker, directory=tmp_path)
    assert done.returncode == 0, done.stderr
    with psycopg.connect(login(roles.READER)) as connection:
        (report,) = connection.execute("SELECT report::text FROM dspex.health_checks").fetchall()
    assert "permission" not in done.stderr + done.stdout + str(report)
    worker = Database(login(roles.WORKER), pool_size=1)
    for name in retention.PRUNED:
        worker.run(partial(retention.prune, name=name))
    worker.run(partial(retention.remove_requests, recorded_before=datetime.now(UTC)))
    worker.close()


def test_a_worker_makes_partitions_and_owns_none(login: Login, backends: Backends) -> None:
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    begin, end = today + timedelta(days=200), today + timedelta(days=210)
    name = f"{begin:%Y_%m_%d}"
    with psycopg.connect(login(roles.WORKER), autocommit=True) as connection:
        bounds = (name, partitions.first_id(begin), partitions.first_id(end))
        connection.execute("SELECT dspex.make_period(%s, %s, %s)", bounds)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(f"DROP TABLE dspex.executions_{name}".encode())
        assert connection.execute("SELECT dspex.unmake_period(%s)", (name,)).fetchone() == (True,)


def test_a_role_that_may_not_grant_gets_a_clear_error(login: Login) -> None:
    reader = Database(login(roles.READER), pool_size=1)
    with pytest.raises(ConfigurationError, match="may not do that"):
        reader.guard(make_roles)
    reader.close()


def test_a_producer_that_makes_a_key_learns_that_the_owner_may(login: Login) -> None:
    producer = Database(login(roles.PRODUCER), pool_size=1)
    with pytest.raises(ConfigurationError, match=r"api_keys.*use one with .* or the schema's owner"):
        AccessKeys(producer).create("mine")
    producer.close()


def test_a_role_that_may_not_create_roles_gets_the_statements(tmp_path: Path) -> None:
    """On servers of its own: roles belong to all databases of a server."""
    with EmbeddedServers(tmp_path / "home", durable=False) as own:
        run(own.database_url, "CREATE ROLE plain LOGIN PASSWORD 'plain'")
        run(own.database_url, "GRANT plain TO dspex")
        run(own.database_url, "CREATE DATABASE plains OWNER plain")
        host = urlsplit(own.database_url).netloc.rpartition("@")[2]
        owner, plain = Database(own.database_url), Database(f"postgresql://plain:plain@{host}/plains")
        plain.guard(upgrade)
        with pytest.raises(ConfigurationError, match="CREATE ROLE dspex_producer NOLOGIN; CREATE ROLE dspex_worker"):
            plain.guard(make_roles)
        owner.guard(upgrade)
        assert owner.guard(make_roles) == list(roles.ROLES)
        assert plain.guard(make_roles) == []
        owner.close()
        plain.close()


def test_every_table_has_its_rights_stated() -> None:
    stated = {table for writes in roles.WRITES.values() for table in writes} | roles.OWNERS
    assert stated == {table.name for table in metadata.tables.values()}


def test_a_producer_gives_feedback_through_the_function_alone(
    backends: Backends, database: Database, login: Login
) -> None:
    url = login("dspex_producer")
    with dspex.Client(database_url=url, broker_url=backends.broker_url) as producer:
        producer.deploy(dspex.Program("qa", QA, adapter="scripted"))
        execution = producer.submit("qa", {"question": "?"})
        producer.cancel(execution.id)
        execution.refresh().feedback(score=0.5, note="late")
        assert producer.audit_trail(execution.id).verify()
        assert [entry.score for entry in execution.feedback_entries] == [0.5]
    insert = "INSERT INTO dspex.feedback (execution_id, corrected, content) VALUES (gen_random_uuid(), false, '{}')"
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        run(url, insert)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        run(login("dspex_reader"), "SELECT dspex.append_feedback(gen_random_uuid(), 1, false, '{}', 'me')")


def test_an_optimisation_needs_a_worker_that_may_deploy_and_says_so(
    login: Login, backends: Backends, tmp_path: Path, model_server: ModelServer
) -> None:
    """An optimiser takes an error of a call for a bad answer: without the right it would end without a score."""
    model_server.script(
        Step(match="new_instruction", times=1000, outputs={"new_instruction": "Answer well."}),
        Step(match="Answer well.", times=1000, outputs={"answer": "right"}),
        default=Step(outputs={"answer": "wrong"}),
    )
    url = login(roles.WORKER)
    worker = WorkerProcess(Backends((url, backends.broker_url)), tmp_path / "worker.log", OPTIMIZING)
    try:
        worker.wait_until_ready()
        with client_of(login(roles.PRODUCER), backends) as producer:
            deploy(producer, model_server, "sums")
            producer.dataset("sums", ROWS, inputs=["question"])
            given = {"metric": "tests.optimizer_metrics:is_right"}
            with pytest.raises(dspex.ExecutionFailed, match="this user of Postgres may not do that") as refused:
                optimize(producer, **given).result(timeout=120)
            assert refused.value.code == "configuration_error"
            grant = sql.SQL("GRANT {} TO {}")
            user = str(urlsplit(url).username)
            run(backends.database_url, grant.format(sql.Identifier(roles.PRODUCER), sql.Identifier(user)))
            assert optimize(producer, **given).result(timeout=120).score == 1.0
    finally:
        worker.stop()
