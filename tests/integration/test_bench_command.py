"""``dspex bench``, against a real deployment."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import dspex
from dspex.client.client import Client
from dspex.settings import Backends
from tests.integration.test_cli import Shell
from tests.processes import WorkerProcess

SHORT = ("--each", "4", "--seconds", "0", "--no-most")


def test_it_says_what_the_deployment_carries_and_where_it_is_bound(
    client: Client, backends: Backends, tmp_path: Path, start_worker: Callable[..., WorkerProcess]
) -> None:
    shell = Shell(backends, tmp_path)
    alone = shell("bench", *SHORT)
    assert (alone.returncode, alone.stdout) == (1, "")
    assert alone.stderr == "no_worker: no worker is alive: start one with `dspex worker`\n"

    worker = start_worker(DSPEX_WORKER_CONCURRENCY=2)
    bound = shell("bench", *SHORT, "--users", "1,12", "--model-ms", "200", "--json")
    assert bound.returncode == 0, bound.stderr
    one, twelve = json.loads(bound.stdout)["results"]
    assert (one["requests"], twelve["requests"]) == (4, 48)
    assert one["execution_ms"] >= 200
    assert twelve["queue_ms"] > one["queue_ms"]
    assert all(floor["met"] for floor in (*one["floors"], *twelve["floors"]))
    assert "the workers' slots are full" in [finding["what"] for finding in twelve["bound_by"]]
    assert twelve["workers"][str(worker.pid)]["rss_mb"] > 10

    client.deploy(dspex.Program("own", dspex.signature("n: int -> total: int"), adapter="scripted"))
    own = ("bench", *SHORT, "--users", "1", "--program", "own")
    assert shell(*own).returncode == 2
    assert shell(*own, "--input", "7").returncode == 2
    assert "with paid model calls" in shell(*own, "--input", '{"n": 1}').stdout
    shown = shell(*own, "--input", '{"n": 1}', "--yes")
    assert shown.returncode == 0, shown.stderr
    assert "met" in shown.stdout
    assert "bottleneck:" in shown.stdout
    assert len(client.list(program="own")) == 4 + 2  # and two to warm up
