"""A Redis that answers and refuses: the worker goes on, health names the refusal and its fix, nothing is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

import dspex
from dspex.client.client import Client
from dspex.embedded.embedded_servers import EmbeddedServers
from dspex.publish.broker import queue_keys
from dspex.settings import Backends
from tests.homes import migrated_servers
from tests.processes import WorkerProcess
from tests.waiting import wait_for

QA = dspex.Program("qa", dspex.signature("question -> answer"), adapter="scripted")
#: Of Redis' own user, which the worker and the client are.
USER = "default"


@pytest.fixture(scope="module")
def own_servers(tmp_path_factory: pytest.TempPathFactory, fork_server: None) -> Iterator[EmbeddedServers]:
    """Servers of these tests' own, to be spoiled."""
    with migrated_servers(tmp_path_factory.mktemp("refusals")) as running:
        yield running


@pytest.fixture(scope="module")
def worker(own_servers: EmbeddedServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    backends = Backends((own_servers.database_url, own_servers.broker_url))
    started = WorkerProcess(backends, tmp_path_factory.mktemp("log") / "worker.log", {"DSPEX_LEASE_SECONDS": 1})
    started.wait_until_ready()
    yield started
    started.stop()


@pytest.fixture
def admin(own_servers: EmbeddedServers) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(own_servers.broker_url) as opened:
        opened.execute_command("ACL", "SETUSER", "admin", "on", ">secret", "allkeys", "allchannels", "+@all")
    parts = urlsplit(own_servers.broker_url)
    url = parts._replace(netloc=f"admin:secret@{parts.netloc.rpartition('@')[2]}").geturl()
    with redis.Redis.from_url(url) as opened:
        yield opened


@pytest.fixture
def client(own_servers: EmbeddedServers) -> Iterator[Client]:
    with Client(database_url=own_servers.database_url, broker_url=own_servers.broker_url) as opened:
        opened.deploy(QA)
        yield opened


@contextmanager
def memory_is_full(admin: redis.Redis) -> Iterator[None]:
    admin.config_set("maxmemory", "1")
    try:
        yield
    finally:
        admin.config_set("maxmemory", "0")


@contextmanager
def disk_is_full(admin: redis.Redis) -> Iterator[None]:
    """It is to save its data and cannot: in place of the file there is a directory."""
    file = Path(str(admin.config_get("dir")["dir"]), str(admin.config_get("dbfilename")["dbfilename"]))
    file.mkdir()
    admin.config_set("save", "3600 1")
    try:
        with suppress(redis.ResponseError):
            admin.bgsave()
        wait_for(lambda: admin.info("persistence")["rdb_last_bgsave_status"] == "err", "it to fail")
        yield
    finally:
        admin.config_set("save", "")
        file.rmdir()


@contextmanager
def it_is_a_replica(admin: redis.Redis) -> Iterator[None]:
    admin.replicaof("127.0.0.1", 1)
    try:
        yield
    finally:
        admin.replicaof("NO", "ONE")


@contextmanager
def rights_are_missing(admin: redis.Redis) -> Iterator[None]:
    """It may neither read the queue nor subscribe nor count calls; what it has begun already is ended."""
    rights = ("-brpop", "-lpush", "-psubscribe", "-evalsha")
    admin.execute_command("ACL", "SETUSER", USER, *rights)  # type: ignore[no-untyped-call]
    admin.client_kill_filter(_type="pubsub")
    try:
        yield
    finally:
        admin.execute_command("ACL", "SETUSER", USER, "+@all")  # type: ignore[no-untyped-call]


@contextmanager
def a_script_does_not_end(admin: redis.Redis) -> Iterator[None]:
    """It runs until it is killed, and once: its connection waits for as long as that and sends nothing again."""
    admin.config_set("lua-time-limit", 10)
    options = {**admin.connection_pool.connection_kwargs, "socket_timeout": None, "retry": Retry(NoBackoff(), 0)}
    busy = redis.Redis(connection_pool=redis.ConnectionPool(**options))

    def run() -> None:
        with suppress(redis.ResponseError):
            busy.eval("while true do end", 0)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        wait_for(lambda: _is_busy(admin), "the script to run")
        yield
    finally:
        admin.script_kill()
        thread.join()
        busy.close()
        busy.connection_pool.disconnect()


def _is_busy(admin: redis.Redis) -> bool:
    try:
        admin.ping()
    except redis.ResponseError as refused:
        return str(refused).startswith("BUSY")
    return False


Refuse = Callable[[redis.Redis], AbstractContextManager[None]]


@pytest.mark.parametrize(
    ("refuse", "fix"),
    [
        (memory_is_full, "maxmemory"),
        (disk_is_full, "stop-writes-on-bgsave-error"),
        (it_is_a_replica, "replica"),
        (a_script_does_not_end, "SCRIPT KILL"),
        (rights_are_missing, "users.acl"),
    ],
)
def test_what_redis_refuses_is_shown_and_waited_out(
    client: Client, worker: WorkerProcess, admin: redis.Redis, refuse: Refuse, fix: str
) -> None:
    with refuse(admin):
        execution = client.submit("qa", {"question": "stored?"})
        wait_for(lambda: fix in str(_findings(client)), f"health to name {fix}")
        assert execution.refresh().status is dspex.Status.QUEUED
    execution.result(timeout=60)
    assert execution.refresh().attempts == 1
    wait_for(lambda: not _findings(client), "health to be well again")
    assert worker.process.poll() is None


def test_a_key_of_a_wrong_type_that_no_worker_may_rename_is_named(
    client: Client, worker: WorkerProcess, admin: redis.Redis
) -> None:
    key = queue_keys()[4]
    admin.execute_command("ACL", "SETUSER", USER, "-rename", "-eval")  # type: ignore[no-untyped-call]
    try:
        admin.delete(key)
        admin.set(key, "x")
        execution = client.submit("qa", {"question": "stored?"}, priority=6)
        wait_for(lambda: "redis" in _findings(client), "health to name the key")
        finding = _findings(client)["redis"]
        assert finding.details == {"wrong_types": {key: "string"}}
        assert finding.fix.endswith(r"redis-cli RENAME $'dspex\x06\x164' $'dspex:set-aside:dspex\x06\x164'")
        assert client.execute("qa", {"question": "another lane"}, priority=0, timeout=60)
    finally:
        admin.execute_command("ACL", "SETUSER", USER, "+@all")  # type: ignore[no-untyped-call]
    execution.result(timeout=60)
    assert worker.process.poll() is None


def _findings(client: Client) -> dict[str, dspex.Component]:
    """What is wrong with Redis and with the worker, as health has it."""
    components = client.health().components
    return {name: components[name] for name in ("redis", "workers") if components[name].status != "healthy"}
