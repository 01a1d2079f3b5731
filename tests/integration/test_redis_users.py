"""Redis users of deploy/redis/users.acl: everything runs as one of them, and what they may not do is refused."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

import dspex
from dspex.embedded.embedded_servers import EmbeddedServers
from dspex.embedded.ports import free_port
from dspex.settings import Backends
from dspex.store.database import Database
from dspex.store.operations import health
from tests.processes import WorkerProcess, command
from tests.waiting import wait_for

USERS = Path(__file__).parents[2] / "deploy" / "redis" / "users.acl"
PASSWORD = "only-for-tests"
QA = dspex.signature("question -> answer")
As = Callable[[str], Backends]


def rules(database: str = "0") -> dict[str, list[str]]:
    """The rules of each user, as ACL SETUSER takes them: the file is written for database 0."""
    lines = USERS.read_text().replace("&/0.", f"&/{database}.").splitlines()
    return {name: given for _, name, *given in map(str.split, lines)}


@pytest.fixture
def as_user(servers: EmbeddedServers, backends: Backends) -> Iterator[As]:
    """The backends, as a user of Redis has them."""
    parts = urlsplit(backends.broker_url)
    users = {name: given for name, given in rules(parts.path[1:]).items() if name != "default"}
    with redis.Redis.from_url(servers.broker_url) as admin:
        for name, given in users.items():
            admin.execute_command("ACL", "SETUSER", name, "reset", *given, "on", f">{PASSWORD}")
        admin.execute_command("ACL", "LOG", "RESET")
        host = parts.netloc.rpartition("@")[2]
        yield lambda name: Backends(
            (backends.database_url, parts._replace(netloc=f"{name}:{PASSWORD}@{host}").geturl())
        )
        admin.execute_command("ACL", "DELUSER", *users)


def denied(servers: EmbeddedServers) -> list[str]:
    """What was refused since the users were made, but for what redis-py says of itself if it may (CLIENT SETINFO)."""
    with redis.Redis.from_url(servers.broker_url, decode_responses=True) as admin:
        entries = admin.acl_log()
    itself = ("client", "client|setinfo")  # with Redis 7 and Valkey the command is named with its subcommand
    return [
        f"{entry['username']} {entry['reason']} {entry['object']}" for entry in entries if entry["object"] not in itself
    ]


def test_everything_runs_as_its_own_user(as_user: As, servers: EmbeddedServers, tmp_path: Path) -> None:
    producer, reader = as_user("dspex_producer"), as_user("dspex_reader")
    worker = WorkerProcess(as_user("dspex_worker"), tmp_path / "worker.log", {})
    port = free_port()
    try:
        with (
            command(as_user("dspex_worker"), tmp_path / "beat.log", "beat", DSPEX_HEALTH_INTERVAL_SECONDS=1),
            command(reader, tmp_path / "flower.log", "flower", "--port", str(port)),
        ):
            everything_works(worker, producer, port)
            assert denied(servers) == []
    finally:
        worker.stop()
    assert denied(servers) == []


def everything_works(worker: WorkerProcess, producer: Backends, port: int) -> None:
    worker.wait_until_ready()
    with dspex.Client(database_url=producer.database_url, broker_url=producer.broker_url) as client:
        exercise(client)
    database = Database(producer.database_url, pool_size=1)
    wait_for(lambda: database.run(health.latest), "beat to have the health checked")
    database.close()
    wait_for(lambda: "dspex-" in page(port, "/workers"), "Flower to show the worker")


def exercise(client: dspex.Client) -> None:
    """All that a producer has to do with Redis."""
    limits = dspex.Limits(tokens_per_minute=10_000)
    client.deploy(dspex.Program("qa", QA, adapter="scripted", model="smollm2", limits=limits))
    execution = client.submit("qa", {"question": "Who may?"}, stream=True)
    assert execution.result(timeout=60).answer
    assert list(execution.stream())
    batch = client.submit_many("qa", [{"question": str(n)} for n in range(5)])
    assert len(list(batch.as_completed(timeout=60))) == 5
    asleep = {"sleep_ms": 60_000}
    client.deploy(dspex.Program("slow", QA, adapter="scripted", model="smollm2", module_options=asleep))
    slow = client.submit("slow", {"question": "How long?"})
    wait_for(lambda: client.get(slow.id).status == "running", "it to run")
    slow.cancel()
    wait_for(lambda: client.get(slow.id).status == "cancelled", "it to be cancelled")


REFUSED = {
    "dspex_producer": (
        "BRPOP dspex 1", "DEL dspex", "LPUSH dspex.maintenance x", "XADD dspex:stream:x * a b", "PUBLISH dspex x",
        "PUBLISH /0.celery.pidbox x", "KEYS *", "FLUSHALL", "CONFIG GET *", "SCRIPT FLUSH", "SET dspex:limits 0",
    ),
    "dspex_worker": (
        "FLUSHALL", "FLUSHDB", "KEYS *", "CONFIG SET dir /tmp", "ACL LIST", "GET other", "SCRIPT FLUSH", "SHUTDOWN",
        "PUBLISH other x", "MODULE LIST", "CLIENT LIST", "MONITOR",
    ),
    "dspex_reader": (
        "LPUSH dspex x", "XREAD STREAMS dspex:stream:x 0", "SUBSCRIBE dspex:done", "PUBLISH dspex:cancel x",
        "GET unacked", "HGETALL unacked", "SET dspex:limits 0", "FLUSHALL", "KEYS *", "CONFIG GET *", "MONITOR",
    ),
}  # fmt: skip


@pytest.mark.parametrize("user", sorted(REFUSED))
def test_what_a_user_may_not_do_is_refused(as_user: As, user: str) -> None:
    allowed = []
    with redis.Redis.from_url(as_user(user).broker_url) as client:
        assert client.ping()
        for command in REFUSED[user]:
            try:
                client.execute_command(*command.split())
            except redis.exceptions.NoPermissionError:
                continue
            except redis.RedisError as error:
                allowed.append(f"{command}: {error}")
            else:
                allowed.append(command)
    assert allowed == []


def test_the_delivered_file_lets_no_user_in() -> None:
    assert all("off" in given and not any(rule in given for rule in ("on", "nopass")) for given in rules().values())


def page(port: int, path: str) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            return str(answer.read(), "utf-8")
    except OSError:
        return ""
