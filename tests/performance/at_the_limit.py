"""``make load``: clients at their rate limit for minutes, with the health asked every second throughout.

Each client is a thread with a :class:`dspex.Client` and a name of its own, which submits as fast as it is let; they are
spread over a few processes. A worker on the embedded stack executes what they submit (adapter scripted). In the end
everything that was accepted must have completed, no client may have been given more than its rate, and the health must
have been answered every time. The exit code is 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import dspex
from dspex.embedded.embedded_stack import EmbeddedStack
from dspex.embedded.ports import free_port
from dspex.settings import Backends, Settings
from dspex.store.database import Database

PROGRAM = dspex.Program("at_the_limit", dspex.signature("text -> label"), adapter="scripted")
BURST = 100
PROCESSES = 5


@dataclass
class Submitted:
    """What one client did: submits accepted and held back, and how long an accepted one took, in milliseconds."""

    accepted: int = 0
    held_back: int = 0
    took_ms: list[float] = field(default_factory=list)


@dataclass
class Asked:
    """What the health said: how often each answer came, and how long each way of asking took, in milliseconds."""

    answers: dict[str, int] = field(default_factory=dict)
    took_ms: dict[str, list[float]] = field(default_factory=dict)

    def note(self, way: str, answer: str, began: float) -> None:
        self.answers[f"{way} {answer}"] = self.answers.get(f"{way} {answer}", 0) + 1
        self.took_ms.setdefault(way, []).append((time.perf_counter() - began) * 1000)


def submit_at_the_limit(backends: Backends, per_minute: int, ends_at: float, name: str) -> Submitted:
    done = Submitted()
    settings = Settings.load(
        database_url=backends.database_url,
        broker_url=backends.broker_url,
        rate_limit_per_minute=per_minute,
        rate_limit_burst=BURST,
        client=name,
    )
    with dspex.Client(settings) as client:
        while time.time() < ends_at:
            began = time.perf_counter()
            try:
                client.submit(PROGRAM.name, {"text": name}, metadata={"client": name})
            except dspex.RateLimited as error:
                done.held_back += 1
                time.sleep(max(error.retry_after_seconds, 0.001))  # as the error asks of a client
            else:
                done.accepted += 1
                done.took_ms.append((time.perf_counter() - began) * 1000)
    return done


def one_process(backends: Backends, per_minute: int, ends_at: float, names: list[str]) -> list[dict[str, Any]]:
    with ThreadPoolExecutor(len(names)) as threads:
        run = partial(submit_at_the_limit, backends, per_minute, ends_at)
        return [asdict(done) for done in threads.map(run, names)]


def ask_health(client: dspex.Client, port: int, stop: threading.Event, asked: Asked) -> None:
    """Every second: as an application asks, and as an orchestrator and Prometheus do."""
    while not stop.wait(1.0):
        began = time.perf_counter()
        asked.note("client.health()", told_by(client.health()), began)
        for path in ("/health/live", "/health/ready", "/metrics"):
            began = time.perf_counter()
            asked.note(path, answer_of(f"http://127.0.0.1:{port}{path}"), began)


def told_by(report: dspex.HealthReport) -> str:
    """How it is as a whole, and what keeps it from being healthy."""
    ailing = [name for name, part in report.components.items() if part.status != "healthy"]
    return " ".join([str(report.overall), *ailing])


def answer_of(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            response.read()
            return str(response.status)
    except OSError as error:
        return str(error)


def await_health(client: dspex.Client) -> None:
    """Beat asks for its first check some seconds after it has started."""
    deadline = time.monotonic() + 60
    while (told := told_by(client.health())) != "healthy":
        if time.monotonic() > deadline:
            raise SystemExit(f"the stack does not become healthy: {told}")
        time.sleep(0.5)


@contextmanager
def asking(client: dspex.Client, port: int) -> Iterator[Asked]:
    asked, stop = Asked(), threading.Event()
    thread = threading.Thread(target=ask_health, args=(client, port, stop, asked))
    thread.start()
    try:
        yield asked
    finally:
        stop.set()
        thread.join()


def outcomes(database: Database) -> dict[str, int]:
    counted = "SELECT status, count(*) FROM dspex.executions GROUP BY status"
    rows = database.run(lambda connection: connection.exec_driver_sql(counted).all())
    return {str(row[0]): int(row[1]) for row in rows}


def measure(clients: int, per_minute: int, seconds: float) -> dict[str, Any]:
    """Run it. Returns the figures."""
    port = free_port()
    os.environ["DSPEX_HTTP_PORT"] = str(port)
    with (
        tempfile.TemporaryDirectory(prefix="dspex-load-") as home,
        EmbeddedStack(Path(home), workers=1, flower=False) as stack,
    ):
        backends = Backends((stack.info.database_url, stack.info.broker_url))
        with dspex.Client(database_url=backends.database_url, broker_url=backends.broker_url) as client:
            client.deploy(PROGRAM)
            await_health(client)
            ends_at = time.time() + seconds
            names = [f"client-{number}" for number in range(clients)]
            shares = [names[n::PROCESSES] for n in range(PROCESSES)]
            database = Database(backends.database_url, pool_size=1)
            with asking(client, port) as asked, ProcessPoolExecutor(PROCESSES) as processes:
                running = [processes.submit(one_process, backends, per_minute, ends_at, share) for share in shares]
                while not all(each.done() for each in running):
                    time.sleep(5)
                    say(f"{max(0.0, ends_at - time.time()):4.0f} s left  {outcomes(database)}  {asked.answers}")
                submitted = [Submitted(**each) for share in running for each in share.result()]
            accepted = sum(each.accepted for each in submitted)
            deadline = time.monotonic() + 120
            while (found := outcomes(database)).get("completed", 0) < accepted and time.monotonic() < deadline:
                time.sleep(0.5)
            database.close()
            return figures(submitted, asked, found, per_minute, seconds)


def figures(
    submitted: list[Submitted], asked: Asked, found: dict[str, int], per_minute: int, seconds: float
) -> dict[str, Any]:
    took = sorted(ms for each in submitted for ms in each.took_ms)
    allowed = BURST + per_minute * seconds / 60
    accepted = sum(each.accepted for each in submitted)
    return {
        "clients": len(submitted),
        "seconds": seconds,
        "allowed to each": allowed,
        "accepted of each, least and most": [min(e.accepted for e in submitted), max(e.accepted for e in submitted)],
        "accepted": accepted,
        "accepted per second": round(accepted / seconds, 1),
        "held back": sum(each.held_back for each in submitted),
        "outcomes": found,
        "submit p50 and p99 ms": [round(took[len(took) // 2], 1), round(took[int(len(took) * 0.99)], 1)],
        "health answers": asked.answers,
        "health p50 and most ms": {
            way: [round(statistics.median(ms), 1), round(max(ms), 1)] for way, ms in asked.took_ms.items()
        },
    }


def faults(found: dict[str, Any]) -> list[str]:
    told = []
    if found["outcomes"] != {"completed": found["accepted"]}:
        told.append("not everything that was accepted has completed")
    # A submit under way at the end may be counted a little later.
    if found["accepted of each, least and most"][1] > found["allowed to each"] + 2:
        told.append("a client was given more than its rate")
    wrong = [said for said in found["health answers"] if not said.endswith((" healthy", " 200"))]
    if wrong:
        told.append(f"the health was not always well: {', '.join(wrong)}")
    return told


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--per-minute", type=int, default=300, help="what each client may submit (300)")
    parser.add_argument("--minutes", type=float, default=5.0)
    given = parser.parse_args()
    found = measure(given.clients, given.per_minute, given.minutes * 60)
    print(json.dumps(found, indent=2))
    told = faults(found)
    print("\n".join(told) or "all well")
    sys.exit(1 if told else 0)


if __name__ == "__main__":
    main()
