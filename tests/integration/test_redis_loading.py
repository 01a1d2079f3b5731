"""A Redis that answers only that it loads its data set, as after its restart: producer and worker wait for it."""

from __future__ import annotations

from pathlib import Path

from dspex.client.client import Client
from dspex.settings import Backends
from tests.chaos.proxy import Proxy
from tests.integration.test_execution import scripted
from tests.processes import WorkerProcess
from tests.waiting import wait_for


def test_redis_that_loads_its_data_is_waited_for(backends: Backends, tmp_path: Path) -> None:
    with Proxy(backends.broker_url) as link:
        through = Backends((backends.database_url, link.url))
        worker = WorkerProcess(through, tmp_path / "worker.log", {"DSPEX_LEASE_SECONDS": 2})
        try:
            worker.wait_until_ready()
            with Client(database_url=through.database_url, broker_url=link.url) as client:
                client.deploy(scripted())
                assert client.execute("qa", {"question": "before?"}, timeout=60)
                link.load()
                submitted = client.submit("qa", {"question": "meanwhile?"})
                answers = link.loading_answers
                wait_for(lambda: link.loading_answers > answers + 5, "the worker to ask again")
                link.restore()
                assert submitted.result(timeout=60)
            assert worker.process.poll() is None
        finally:
            worker.stop()
