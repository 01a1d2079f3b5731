"""``dspex worker --processes N``: what dies is replaced, and what is worn out too, without loss; nothing outlives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import dspex
from dspex.cli.operate.component_details import DETAILS
from dspex.client.client import Client
from dspex.embedded.ports import free_port
from dspex.settings import Backends
from dspex.store import workers
from tests.processes import environment_of, run_module, start
from tests.waiting import wait_for

ROOT = Path(__file__).parents[2]
QA = dspex.signature("question -> answer")


class FleetProcess:
    """The parent of two workers."""

    def __init__(self, backends: Backends, log: Path, environment: dict[str, Any]) -> None:
        self.log = log
        with log.open("wb") as output:
            self.process = start(
                "dspex.cli", "worker", "--processes", "2", "--concurrency", "10",
                environment=environment_of(backends, environment), output=output,
            )  # fmt: skip

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()  # its children go with it
            self.process.wait()


@pytest.fixture
def start_fleet(backends: Backends, tmp_path: Path) -> Iterator[Callable[..., FleetProcess]]:
    started: list[FleetProcess] = []

    def start(**environment: Any) -> FleetProcess:
        started.append(FleetProcess(backends, tmp_path / "fleet.log", environment))
        return started[-1]

    yield start
    for fleet in started:
        fleet.stop()


def live_pids(client: Client) -> set[int]:
    return {row["pid"] for row in client.workers() if row["state"] == "running"}


def listeners(port: int) -> dict[int, str]:
    """When the processes started that answer at the port and the next."""
    found = {}
    for each in (port, port + 1):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{each}/metrics", timeout=30) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            continue
        (found[each],) = (line for line in lines if line.startswith("dspex_process_start_time_seconds "))
    return found


def is_running(execution: dspex.Execution) -> bool:
    return execution.refresh().status is dspex.Status.RUNNING


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_an_import_that_ends_the_process_keeps_no_worker_from_starting_and_a_dead_parent_leaves_none(
    client: Client, start_fleet: Callable[..., FleetProcess], tmp_path: Path
) -> None:
    (tmp_path / "deadly.py").write_text("import os\nos._exit(3)\n")
    client.deploy(dspex.Program("deadly", QA, adapter="scripted", actions=["deadly:note"]))
    client.deploy(dspex.Program("qa", QA, adapter="scripted"))
    held = client.submit("deadly", {"question": "?"})
    fleet = start_fleet(DSPEX_PROGRAM_PACKAGES="deadly", PYTHONPATH=tmp_path, DSPEX_LEASE_SECONDS=2)
    assert client.execute("qa", {"question": "?"}, timeout=90)
    assert (held.refresh().status, held.attempts) == (dspex.Status.QUEUED, 0)
    wait_for(lambda: client.health().components["programs"].details, "health to name it")
    named = DETAILS["programs"](client.health().components["programs"].details)
    assert "2 worker processes ended while they imported it" in named
    left = live_pids(client)
    fleet.process.kill()
    wait_for(lambda: not any(map(exists, left)), "the children to be gone")


def test_dead_and_worn_workers_are_replaced_and_nothing_is_lost_or_paid_twice(
    client: Client, start_fleet: Callable[..., FleetProcess]
) -> None:
    port = free_port()
    fleet = start_fleet(DSPEX_WORKER_MAX_EXECUTIONS=30, DSPEX_GRACE_SECONDS=600, DSPEX_HTTP_PORT=port)
    wait_for(lambda: len(listeners(port)) == 2, "both to listen")
    both = wait_for(lambda: len(pids := live_pids(client)) == 2 and pids, "two workers")
    assert both
    victim, survivor = both
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: "another is started in 0.5 s" in fleet.log.read_text(), "the parent to notice")
    wait_for(lambda: len(live_pids(client) - {victim}) == 2, "its replacement")
    assert survivor in live_pids(client)
    wait_for(lambda: len(listeners(port)) == 2, "both to listen")
    first = listeners(port)
    options = {"calls": 2, "sleep_ms": 150, "outputs": {"answer": "!"}}
    client.deploy(dspex.Program("qa", QA, adapter="scripted", retry=dspex.Retry(1), module_options=options))
    # At most 39 are run by one that retires, and 29 by each that does not: two retire.
    batch = client.submit_many("qa", ({"question": f"number {n}"} for n in range(120)))
    finished = list(batch.as_completed(timeout=180))
    assert len(finished) == 120
    assert {execution.status for execution in finished} == {dspex.Status.COMPLETED}
    assert {execution.attempts for execution in finished} == {1}, "what runs is finished, not handed back"
    assert {(e.metrics.lm_calls, e.metrics.replayed_lm_calls) for e in finished} == {(2, 0)}
    assert not client.verify_audit()
    pids = {row["pid"] for row in client._database.run(lambda c: workers.listing(c, live_only=False))}
    assert len(pids) >= 5, "two and their replacements, and the one that was killed"
    assert "retires" in fleet.log.read_text()

    # Each new leader watches a silent worker for the length of its lease, and the leaders of the batch retired.
    wait_for(lambda: victim not in {row["pid"] for row in client.workers()}, "the one that was killed to be found dead")

    # Asked once the parent lets what runs finish; asked twice it has it handed back.
    wait_for(lambda: len(live_pids(client)) == 2, "two workers")
    wait_for(lambda: len(now := listeners(port)) == 2 and not now.items() & first.items(), "the next to have the ports")
    endless = dspex.Program("endless", QA, adapter="scripted", timeout=3600, module_options={"sleep_ms": 600_000})
    client.deploy(endless)
    execution = client.submit("endless", {"question": "?"})
    wait_for(lambda: is_running(execution), "it to run")
    fleet.process.terminate()
    wait_for(lambda: len(psutil.Process(fleet.process.pid).children()) == 1, "the idle one to end")
    assert is_running(execution)
    fleet.process.terminate()
    assert fleet.process.wait(60) == 0
    assert execution.refresh().status is dspex.Status.QUEUED
    assert client.workers() == []


HOLDS_THE_LOCK = """
import ctypes, os, pathlib, sys, time
from workers.process import fleet_pipe
if pathlib.Path(sys.argv[1]).exists():
    sys.exit(0)
pathlib.Path(sys.argv[1]).touch()
fleet_pipe.ProcessHeartbeat(1.0).start()
fleet_pipe.notify_parent(fleet_pipe.READY)
ctypes.PyDLL(None).sleep(600)
"""


def test_a_child_without_a_heartbeat_is_killed_and_replaced(tmp_path: Path, fork_server: None) -> None:
    options = ["--processes", "1", "--name", "it", "--patience-seconds", "9", "--silence-seconds", "1", "--"]
    child = [sys.executable, "-c", HOLDS_THE_LOCK, str(tmp_path / "held")]
    fleet = run_module("workers.process.fleet", *options, *child, environment=os.environ, directory=ROOT)
    assert fleet.returncode == 0
    assert "it-1 (pid " in fleet.stderr
    assert ") has sent no heartbeat for 1 s: it is killed" in fleet.stderr
    assert "ended with -9: another is started" in fleet.stderr
    assert 'File "<string>"' in fleet.stderr, "the stack of the code that keeps the lock"
    assert "it-2" in fleet.stderr
