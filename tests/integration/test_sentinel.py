"""Redis behind Sentinel: the whole path, and a failover while work goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import dspex
from dspex.client.client import Client
from dspex.embedded.embedded_servers import EmbeddedServers
from dspex.publish import redis_clients
from dspex.publish.channels import CANCEL_CHANNEL
from dspex.settings import Backends
from dspex.settings.sentinels import Sentinels
from dspex.store.lifecycle.status import Status
from tests.conftest import fresh_backends
from tests.processes import WorkerProcess
from tests.sentinel import Sentinel, sentinel
from tests.waiting import wait_for

QA = dspex.Program(
    "qa", dspex.signature("question -> answer"), adapter="scripted", module_options={"outputs": {"answer": "!"}}
)
SLOW = dspex.Program(
    "slow", dspex.signature("question -> answer"), adapter="scripted", module_options={"sleep_ms": 200}
)


@pytest.fixture
def redis_pair(tmp_path: Path) -> Iterator[Sentinel]:
    with sentinel(tmp_path) as running:
        yield running


@pytest.fixture
def backends(servers: EmbeddedServers, redis_pair: Sentinel) -> Iterator[Backends]:
    with fresh_backends(servers) as straight:
        yield Backends((straight.database_url, redis_pair.url))


def test_a_failover_loses_nothing(
    client: Client, redis_pair: Sentinel, start_worker: Callable[..., WorkerProcess]
) -> None:
    client.deploy(QA)
    client.deploy(SLOW)
    worker = start_worker(DSPEX_WORKER_CONCURRENCY=10)
    streamed = client.submit("qa", {"question": "?"}, stream=True)
    assert [event.kind for event in streamed.stream()][-1] == "done"
    batch = client.submit_many("slow", [{"question": str(n)} for n in range(200)])
    wait_for(lambda: batch.progress.completed, "the batch to begin")
    redis_pair.kill_the_primary()
    during = client.submit("qa", {"question": "during"})
    assert sum(execution.status is Status.COMPLETED for execution in batch.as_completed(timeout=120)) == 200
    assert during.result(timeout=60).answer == "!"
    with redis_clients.client(redis_pair.url) as primary:
        assert primary.connection_pool.get_master_address()[1] != redis_pair.first
        wait_for(
            lambda: any(c["cmd"] == "brpop" for c in primary.client_list()), "the worker to consume from the new one"
        )
        wait_for(lambda: primary.pubsub_numsub(CANCEL_CHANNEL)[0][1], "the worker to listen to the new one")
    assert client.execute("qa", {"question": "after"}, timeout=60).answer == "!"
    assert client.verify_audit() == {}
    assert worker.process.poll() is None


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis+sentinel://h:1", "name-of-the-primary"),
        ("redis+sentinel://h:x/primary", "host:port"),
        ("redis+sentinel://h:1/primary?ssl=1", "no parameters"),
    ],
)
def test_a_url_that_leads_nowhere_is_refused(url: str, why: str) -> None:
    with pytest.raises(dspex.ConfigurationError, match=why):
        dspex.Client(database_url="postgresql://h/d", broker_url=url)


def test_a_url_names_sentinels() -> None:
    found = Sentinels.of("redis+sentinel://user:p%40ss@one:1,two/main/3")
    assert found == Sentinels((("one", 1), ("two", 26379)), "main", 3, "user", "p@ss")
    assert "p@ss" not in repr(found)
    assert Sentinels.of("redis://h/0") is None
