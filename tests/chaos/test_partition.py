"""Two workers in network namespaces; the link of one is cut for 20 s."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

import dspex
from dspex.client.client import Client
from dspex.settings import Backends
from tests.chaos.guarantees import assert_guarantees, paid_calls
from tests.chaos.proxy import Proxy
from tests.processes import WorkerProcess
from tests.waiting import wait_for

CUT_SECONDS = 20.0


@dataclass(frozen=True)
class Namespace:
    """A network namespace with one link to this host, whose end here is ``address``."""

    name: str
    address: str

    def cut(self) -> None:
        _ip("link", "set", f"{self.name}-h", "down")

    def mend(self) -> None:
        _ip("link", "set", f"{self.name}-h", "up")


@pytest.fixture
def namespaces() -> Iterator[list[Namespace]]:
    """Two of them; skipped where they cannot be made."""
    if shutil.which("ip") is None:
        pytest.skip("network namespaces need the command ip (iproute2)")
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    with ExitStack() as stack:
        made = []
        for number in (1, 2):
            name, network = f"dx{os.getpid() % 100_000}-{number}", f"10.213.{os.getpid() % 250}"
            host, inside = f"{network}.{number * 4 + 1}", f"{network}.{number * 4 + 2}"
            try:
                _ip("netns", "add", name)
            except subprocess.CalledProcessError as error:
                pytest.skip(f"network namespaces cannot be made here: {error.stderr.strip()}")
            stack.callback(_ip, "netns", "del", name)
            _ip("link", "add", f"{name}-h", "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("addr", "add", f"{host}/30", "dev", f"{name}-h")
            _ip("link", "set", f"{name}-h", "up")
            _ip("-n", name, "addr", "add", f"{inside}/30", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", name, "link", "set", "lo", "up")
            made.append(Namespace(name, host))
        yield made


@pytest.fixture
def start_inside(backends: Backends, tmp_path: Path) -> Iterator[Callable[[Namespace], WorkerProcess]]:
    """Starts a worker in a namespace; the servers listen on this host's loopback, so proxies stand at the link."""
    with ExitStack() as stack:

        def start(namespace: Namespace) -> WorkerProcess:
            postgres = stack.enter_context(Proxy(backends.database_url, host=namespace.address))
            redis = stack.enter_context(Proxy(backends.broker_url, host=namespace.address))
            worker = WorkerProcess(
                Backends((postgres.url, redis.url)), tmp_path / f"{namespace.name}.log", {},
                prefix=("ip", "netns", "exec", namespace.name),
            )  # fmt: skip
            stack.callback(worker.stop)
            worker.wait_until_ready()
            return worker

        yield start


@pytest.mark.chaos
def test_the_link_of_one_of_two_workers_is_cut(
    namespaces: list[Namespace], start_inside: Callable[[Namespace], WorkerProcess], client: Client
) -> None:
    cut_off, other = [start_inside(namespace) for namespace in namespaces]
    options = {"sleep_ms": 1500, "calls": 3}
    client.deploy(
        dspex.Program("qa", dspex.signature("question -> answer"), adapter="scripted", module_options=options)
    )
    ids = [client.submit("qa", {"question": f"what is number {n}?"}).id for n in range(20)]
    wait_for(lambda: all(paid_calls(client, ids)), "a first call of each")
    by_pid = {row["pid"]: row["id"] for row in client.workers()}
    taken = [row["id"] for row in client._session.rows(ids) if row["worker_id"] == by_pid[cut_off.pid]]
    assert taken, "both workers have work"
    namespaces[0].cut()
    cut = time.monotonic()
    assert_guarantees(client, ids)  # the other worker does it all
    time.sleep(max(0.0, cut + CUT_SECONDS - time.monotonic()))
    as_recorded = {row["id"]: row for row in client._session.rows(ids)}
    assert all(as_recorded[id]["attempt"] == 2 for id in taken)
    namespaces[0].mend()
    wait_for(lambda: "lost its lease" in cut_off.log.read_text(), "the worker to find out")
    wait_for(lambda: cut_off.pid in {row["pid"] for row in client.workers()}, "it to be back under a new id")
    assert {row["id"]: row for row in client._session.rows(ids)} == as_recorded
    assert_guarantees(client, ids)
    # The call that was in flight at the cut was paid for, too: its answer is kept under the attempt that is over.
    assert all(paid in ({3, 4} if id in taken else {3}) for id, paid in zip(ids, paid_calls(client, ids), strict=True))
    other.stop()
    assert client.execute("qa", {"question": "asked of the one that came back"}, timeout=60)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
