"""Flower: what it shows, read over HTTP and in a browser, and whom it lets in."""

from __future__ import annotations

import json
import socket
import sys
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import dspex
from dspex.client.batch import Batch
from dspex.client.client import Client
from dspex.client.execution import Execution
from dspex.embedded.embedded_servers import EmbeddedServers
from dspex.embedded.ports import free_port
from dspex.settings import Backends
from tests.browser import chromium
from tests.conftest import fresh_backends
from tests.processes import WorkerProcess, command, environment_of, run_module
from tests.waiting import wait_for

PASSWORD = "correct, horse: battery"
MODEL_KEY = "a-key-of-a-model"
CREDENTIALS = {"Authorization": "Basic " + b64encode(f"ops:{PASSWORD}".encode()).decode()}
NOTED = "each attempt of an execution counts as a task"
SIGNATURE = dspex.signature("question -> answer")
PROGRAMS = (
    dspex.Program("good", SIGNATURE, adapter="scripted", module_options={"sleep_ms": 200}),
    dspex.Program("probe", SIGNATURE, adapter="scripted"),
    dspex.Program(
        "bad", SIGNATURE, adapter="scripted", retry=dspex.Retry(1),
        module_options={"fail": {"code": "authentication", "times": 9}},
    ),
)  # fmt: skip


def fetch(url: str, method: str = "GET") -> Any:
    """The JSON at this address; None when nobody answers."""
    request = urllib.request.Request(url, headers=CREDENTIALS, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())
    except OSError:
        return None


@dataclass(frozen=True, slots=True)
class Flower:
    """A Flower that has heard of a worker and of executions that are over."""

    url: str
    process: int
    log: Path
    client: Client
    worker: str
    single: Execution
    failed: Execution
    batch: Batch


@pytest.fixture(scope="module")
def flower(servers: EmbeddedServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flower]:
    place, port = tmp_path_factory.mktemp("flower"), free_port()
    url = f"http://127.0.0.1:{port}/ops/flower"
    arguments = ("flower", "--port", str(port), "--url-prefix", "/ops/flower/")
    environment = {"DSPEX_FLOWER_USER": "ops", "DSPEX_FLOWER_PASSWORD": PASSWORD, "TEAM_KEY": MODEL_KEY}
    log = place / "flower.log"
    with fresh_backends(servers) as backends, Client(database_url=backends.database_url,
                                                     broker_url=backends.broker_url) as client:  # fmt: skip
        worker = WorkerProcess(backends, place / "worker.log", {})
        try:
            with command(backends, log, *arguments, forked=False, **environment) as process:
                wait_for(lambda: fetch(f"{url}/api/workers") is not None, "Flower to answer", timeout=60)
                worker.wait_until_ready()
                yield _with_executions(url, process.pid, log, client)
        finally:
            worker.stop()


def _with_executions(url: str, process: int, log: Path, client: Client) -> Flower:
    workers = wait_for(lambda: fetch(f"{url}/api/workers?refresh=1"), "Flower to see the worker", timeout=60)
    for program in PROGRAMS:
        client.deploy(program)

    def probed() -> bool:
        client.execute("probe", {"question": "?"}, timeout=60)
        return bool(fetch(f"{url}/api/tasks"))

    wait_for(probed, "Flower to have asked for the events of tasks", timeout=60)
    single = client.submit("good", {"question": "a secret question"})
    batch = client.submit_many("good", [{"question": f"number {n}"} for n in range(60)])
    failed = client.submit("bad", {"question": "?"})
    assert len(list(batch.as_completed(timeout=60))) == 60
    single.result(timeout=60)
    wait_for(lambda: failed.refresh().status.is_final, "the bad one to fail")
    return Flower(url, process, log, client, next(iter(workers)), single, failed, batch)


def test_it_shows_the_worker_and_each_execution_as_a_task(flower: Flower) -> None:
    (shown,) = fetch(f"{flower.url}/api/workers?refresh=1").values()
    assert shown["stats"]["pool"]["max-concurrency"] == 200
    assert shown["stats"]["pool"]["implementation"] == "workers.pool:AsyncioPool"
    assert {queue["name"] for queue in shown["active_queues"]} == {"dspex", "dspex.maintenance"}
    counted = shown["stats"]["total"]
    assert counted["dspex.execute good"] == 61, "each execution of a message counts"
    assert fetch(f"{flower.url}/api/worker/pool/grow/{flower.worker}?n=50", "POST")
    wait_for(lambda: flower.client.workers()[0]["concurrency"] == 250, "the worker to have grown")
    expected = {str(id): "SUCCESS" for id in (flower.single.id, *flower.batch.ids)}
    expected[str(flower.failed.id)] = "FAILURE"

    def states() -> dict[str, str]:
        tasks = (fetch(f"{flower.url}/api/tasks?limit=1000") or {}).items()
        return {id: task["state"] for id, task in tasks if id in expected}

    wait_for(lambda: states() == expected, "Flower to show every execution in its state")
    tasks = fetch(f"{flower.url}/api/tasks?limit=1000")
    assert tasks[str(flower.single.id)]["name"] == "dspex.execute good"
    assert tasks[str(flower.single.id)]["runtime"] >= 0.2
    assert tasks[str(flower.batch.ids[-1])]["runtime"] >= 0.2
    assert "secret question" not in json.dumps(tasks)


@pytest.mark.parametrize("path", ["/", "/tasks", "/broker"])
def test_each_page_has_what_its_numbers_count(flower: Flower, path: str) -> None:
    with urllib.request.urlopen(urllib.request.Request(flower.url + path, headers=CREDENTIALS), timeout=60) as page:
        assert NOTED in page.read().decode()


def test_a_port_that_is_taken_is_named(servers: EmbeddedServers, tmp_path: Path) -> None:
    backends, log = Backends((servers.database_url, servers.broker_url)), tmp_path / "flower.log"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with command(backends, log, "flower", "--port", str(port), forked=False) as process:
            assert process.wait(60) == 1
    said = log.read_text()
    assert f"cannot listen at 127.0.0.1:{port}: Address already in use" in said
    assert "Traceback" not in said


#: A Flower to which SIGTERM comes where Python ignores exceptions: while it drops an object that is weakly referenced.
SIGNALLED = """
import os, signal, weakref
from tornado.ioloop import IOLoop
from workers.consume import flower

class Dropped: pass

def drop():
    global reference
    dropped = Dropped()
    reference = weakref.ref(dropped, lambda _: os.kill(os.getpid(), signal.SIGTERM))

IOLoop.current().call_later(0, drop)
flower.main()
"""


def test_a_signal_ends_it_wherever_it_comes(servers: EmbeddedServers, tmp_path: Path) -> None:
    address = ("--port", str(free_port()), "--address", "127.0.0.1")
    environment = environment_of(Backends((servers.database_url, servers.broker_url)), {})
    done = run_module("-c", SIGNALLED, *address, environment=environment, directory=tmp_path, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_it_has_no_keys_of_models(flower: Flower) -> None:
    environment = Path(f"/proc/{flower.process}/environ").read_text()
    assert PASSWORD in environment
    assert MODEL_KEY not in environment


@pytest.mark.parametrize("path", ["/", "/tasks", "/broker", "/api/workers", "/api/tasks"])
def test_without_the_password_every_page_is_refused(flower: Flower, path: str) -> None:
    for headers in ({}, {"Authorization": "Basic " + b64encode(b"ops:wrong").decode()}):
        with pytest.raises(urllib.error.HTTPError, match="401") as refused:
            urllib.request.urlopen(urllib.request.Request(flower.url + path, headers=headers), timeout=60)
        refused.value.close()


def test_the_password_is_on_no_command_line_and_in_no_log(flower: Flower) -> None:
    assert "battery" not in Path(f"/proc/{flower.process}/cmdline").read_text() + flower.log.read_text()


def test_a_browser_shows_workers_and_tasks_and_no_inputs(flower: Flower, browser: Any) -> None:
    def page(path: str, *expected: str) -> str:
        browser.get(flower.url + path)

        def shown() -> str:
            found: str = browser.execute_script("return document.body.textContent")
            return found if all(text in found for text in expected) else ""

        return wait_for(shown, f"{path} to show {expected}")

    pages = [
        page("/", flower.worker, "Online", NOTED),
        page("/tasks", "dspex.execute good", str(flower.batch.ids[-1]), "SUCCESS"),
        page(f"/task/{flower.single.id}", "dspex.execute good", str(flower.single.id), "SUCCESS", "completed"),
        page(f"/task/{flower.failed.id}", "dspex.execute bad", "FAILURE", "authentication"),
        page(f"/worker/{flower.worker}", "Max concurrency"),
        page("/broker", "dspex.maintenance"),
    ]
    assert "secret question" not in "".join(pages)
    assert [line["message"] for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """A headless Chromium that knows the password."""
    with chromium(tmp_path) as opened:
        opened.execute_cdp_cmd("Network.enable", {})
        opened.execute_cdp_cmd("Network.setExtraHTTPHeaders", {"headers": CREDENTIALS})
        yield opened
