"""Redis is emptied, Postgres restarted and the worker killed while thousands of executions wait."""

from __future__ import annotations

import signal

import pytest
import redis

from dspex.client.client import Client
from dspex.embedded.embedded_servers import EmbeddedServers
from dspex.settings import Backends
from dspex.testing.model_batches import BatchScript
from tests.chaos.test_bundles import SETTINGS, StartWorker, assert_paid_once, deploy, submit
from tests.model_server import ModelServer, model_server
from tests.waiting import wait_for

__all__ = ["model_server"]

ROWS = 10_000


@pytest.fixture
def backends(own_servers: EmbeddedServers) -> Backends:
    return Backends((own_servers.database_url, own_servers.broker_url))


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_thousands_wait_through_everything(
    own_servers: EmbeddedServers, client: Client, model_server: ModelServer, start_worker: StartWorker
) -> None:
    model_server.script_batches(BatchScript(looks=None))
    deploy(client, model_server, adapter="direct")
    worker = start_worker(**SETTINGS)
    batch = submit(client, ROWS)
    wait_for(lambda: batch.progress.bundled == ROWS, "all to wait", timeout=300, every=1)
    with redis.Redis.from_url(own_servers.broker_url) as connection:
        connection.flushall()
    own_servers.postgres.stop()
    own_servers.postgres.begin()
    worker.signal(signal.SIGKILL)
    start_worker(**SETTINGS)
    assert batch.progress.waiting == ROWS
    model_server.script_batches(BatchScript())
    assert_paid_once(client, model_server, batch, ROWS)
