"""Flower and beat: what they show and record, read over HTTP and SQL."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dspex
from dspex.client import Client
from dspex.embedded.ports import free_port
from dspex.settings import Backends
from dspex.store import health
from dspex.store.database import Database
from tests.processes import WorkerProcess, dspex_command, environment_of
from tests.waiting import wait_for


@contextmanager
def command(backends: Backends, log: Path, *arguments: str, **environment: str) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            dspex_command(*arguments),
            env=environment_of(backends, environment),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


def fetch(url: str) -> Any:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.loads(answer.read())
    except OSError:
        return None


def post(url: str) -> None:
    with urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=10) as answer:
        assert answer.status == 200


def test_flower_shows_the_worker_and_each_execution_as_a_task(
    client: Client, backends: Backends, start_worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    arguments = ("flower", "--port", str(port))
    with command(backends, tmp_path / "flower.log", *arguments, FLOWER_UNAUTHENTICATED_API="true"):
        wait_for(lambda: fetch(f"{url}/workers") is not None, "Flower to answer", timeout=60)
        start_worker()
        seen = wait_for(lambda: fetch(f"{url}/workers?refresh=1"), "Flower to see the worker", timeout=60)
        ((name, shown),) = seen.items()
        assert shown["stats"]["pool"]["max-concurrency"] == 200
        assert shown["stats"]["pool"]["implementation"] == "workers.pool:AsyncioPool"
        assert {queue["name"] for queue in shown["active_queues"]} == {"dspex", "dspex.maintenance"}
        post(f"{url}/worker/pool/grow/{name}?n=50")
        wait_for(lambda: client.workers()[0]["concurrency"] == 250, "the worker to have grown")
        signature = dspex.signature("question -> answer")
        client.deploy(dspex.Program("good", signature, adapter="scripted", module_options={"sleep_ms": 200}))
        client.deploy(
            dspex.Program(
                "bad",
                signature,
                adapter="scripted",
                retry=dspex.Retry(1),
                module_options={"fail": {"code": "authentication", "times": 9}},
            )
        )
        client.deploy(dspex.Program("probe", signature, adapter="scripted"))

        def probed() -> bool:
            client.execute("probe", {"question": "?"}, timeout=60)
            return bool(fetch(f"{url}/tasks"))

        wait_for(probed, "Flower to have asked for the events of tasks", timeout=60)
        single = client.submit("good", {"question": "a secret question"})
        batch = client.submit_many("good", [{"question": f"number {n}"} for n in range(60)])
        failing = client.submit("bad", {"question": "?"})
        assert len(list(batch.as_completed(timeout=60))) == 60
        single.result(timeout=60)
        wait_for(lambda: failing.status.is_final, "the bad one to fail")
        expected = {str(id): "SUCCESS" for id in (single.id, *batch.ids)} | {str(failing.id): "FAILURE"}

        def states() -> dict[str, str]:
            tasks = (fetch(f"{url}/tasks?limit=1000") or {}).items()
            return {id: task["state"] for id, task in tasks if id in expected}

        wait_for(lambda: states() == expected, "Flower to show every execution in its state")
        tasks = fetch(f"{url}/tasks?limit=1000")
        assert tasks[str(single.id)]["name"] == "dspex.execute good"
        assert tasks[str(single.id)]["runtime"] >= 0.2
        assert tasks[str(batch.ids[-1])]["runtime"] >= 0.2
        assert "secret question" not in json.dumps(tasks)


def test_beat_has_the_health_checked_and_recorded(
    backends: Backends, database: Database, start_worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    start_worker()
    with command(backends, tmp_path / "beat.log", "beat", DSPEX_HEALTH_INTERVAL_SECONDS="1"):
        record = wait_for(lambda: database.run(health.latest), "a health record", timeout=60)
        assert record is not None
        first = record["id"]
        wait_for(lambda: (database.run(health.latest) or {"id": 0})["id"] > first, "the next one")
    assert record["healthy"], record["components"]
    assert set(record["components"]) == {"postgres", "redis", "workers", "queue"}
    assert record["components"]["workers"]["details"]["alive"] == 1
