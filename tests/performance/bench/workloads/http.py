"""Over HTTP: 50 users who each ask and wait for the answer, beside FastAPI with DSPy in process and beside dspy-cli.

All three ask the same model of 50 ms. What the gateway itself costs is measured with no-ops. And the memory that an
upload of 200 MB of rows takes.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import psutil

from dspex.client.client import Client
from dspex.embedded.ports import free_port
from tests.performance.bench.context import PEERS, Context
from tests.performance.bench.figures import Figure, at_most, percentile
from tests.performance.bench.workloads.model_bound import program as model_program
from tests.performance.bench.workloads.noop import program, warm_up
from tests.processes import command
from tests.serving import peak_growth
from tests.waiting import wait_for

USERS = 50
MODEL_MS = 50
#: Milliseconds of CPU that the gateway may take for a request, submit and wait together.
GOAL = at_most(1)
UPLOAD_BYTES, ROW_BYTES = 200_000_000, 20_000
NOOP, OURS, FASTAPI, DSPY_CLI = "DSPex, no-ops", "DSPex", "FastAPI + dspy (nothing stored)", "dspy-cli (nothing stored)"


@dataclass(frozen=True, slots=True)
class Round:
    """What one round measured."""

    per_second: float
    milliseconds: Sequence[float]
    cpu_ms: float


@dataclass(frozen=True, slots=True)
class Served:
    """An address that is asked, and the process that serves it."""

    url: str
    pid: int
    body: Callable[[int], Mapping[str, Any]]


def run(context: Context) -> list[Figure]:
    count = context.size(3000, 500)
    rounds: dict[str, list[Round]] = {}
    with context.model() as model:
        base = f"{model}/{MODEL_MS}/v1"
        contenders: dict[str, Callable[[], AbstractContextManager[Served]]] = {
            NOOP: lambda: _dspex(context, ""), OURS: lambda: _dspex(context, model),
            FASTAPI: lambda: _fastapi(context, base), DSPY_CLI: lambda: _dspy_cli(context, base),
        }  # fmt: skip
        for _ in range(context.repeats):
            for name, serve in contenders.items():
                with serve() as served:
                    found = measure(served, count)
                rounds.setdefault(name, []).append(found)
                context.told(f"{name}: {found.per_second:.0f}/s, {found.cpu_ms:.2f} ms of CPU a request")
    return [
        *(Figure("results over HTTP", name, "/s", [r.per_second for r in found]) for name, found in rounds.items()),
        *(
            Figure("latency over HTTP p50", name, "ms", [percentile(r.milliseconds, 50) for r in found])
            for name, found in rounds.items()
        ),
        Figure("CPU of the gateway a request", "DSPex", "ms", [each.cpu_ms for each in rounds[NOOP]], GOAL),
        Figure("growth of the gateway, upload of 200 MB", "DSPex", "MB", [_upload_growth(context)], at_most(50)),
    ]


def measure(served: Served, count: int) -> Round:
    """So many requests, after a warm-up."""
    asyncio.run(_ask(served, 2 * USERS))
    process = psutil.Process(served.pid)
    before, began = process.cpu_times(), time.perf_counter()
    taken = asyncio.run(_ask(served, count))
    seconds, after = time.perf_counter() - began, process.cpu_times()
    cpu = after.user + after.system - before.user - before.system
    return Round(count / seconds, taken, cpu / count * 1000)


@contextmanager
def _dspex(context: Context, model: str) -> Iterator[Served]:
    """The gateway and a worker, with a program of this model; without one, with a no-op."""
    with context.deployment() as client:
        client.deploy(model_program(model, MODEL_MS) if model else program())
        with context.worker(client):
            warm_up(client)
            with gateway(context, client) as (url, pid):
                path = "/v1/programs/noop/executions"
                yield Served(url + path, pid, lambda number: {"inputs": {"question": str(number)}})


def _upload_growth(context: Context) -> float:
    """Megabytes by which the gateway's memory grows at most while it takes rows, all of which are stored."""
    rows = UPLOAD_BYTES // ROW_BYTES
    line = json.dumps({"question": "x" * ROW_BYTES}).encode() + b"\n"
    headers = {"Content-Type": "application/jsonl"}
    with context.deployment() as client:
        client.deploy(program())
        with gateway(context, client) as (url, pid), httpx.Client(base_url=url, timeout=300) as http:
            stored: list[int] = []

            def upload(count: int) -> None:
                lines = (line for _ in range(count))
                stored.append(http.post("/v1/programs/noop/batches", content=lines, headers=headers).json()["stored"])

            upload(1)
            grown = peak_growth(pid, lambda: upload(rows))
            assert stored == [1, rows]
    return grown / 1e6


@contextmanager
def gateway(context: Context, client: Client) -> Iterator[tuple[str, int]]:
    """The address and the process of a gateway."""
    port, log = free_port(), context.directory / "serve.log"
    with command(client.settings.backends(), log, "serve", "--port", str(port), forked=False) as process:
        url = f"http://127.0.0.1:{port}"
        _wait(f"{url}/ready")
        yield url, process.pid


@contextmanager
def _fastapi(context: Context, model: str) -> Iterator[Served]:
    python, port = context.peer("fastapi"), free_port()
    with (
        context.peer_environment(PEER_MODEL=model) as environment,
        context.process([python, "fastapi_dspy.py", str(port)], environment) as process,
    ):
        _wait(f"http://127.0.0.1:{port}/docs")
        yield Served(f"http://127.0.0.1:{port}/ask", process.pid, lambda number: {"question": str(number)})


@contextmanager
def _dspy_cli(context: Context, model: str) -> Iterator[Served]:
    python, port = Path(context.peer("dspy_cli")), free_port()
    project = context.directory / "dspy_cli_project"
    shutil.copytree(PEERS / "dspy_cli_project", project, dirs_exist_ok=True)
    registry = {"fake": {"model": "openai/fake", "api_base": model, "api_key": "none", "cache": False}}
    (project / "dspy.config.yaml").write_text(
        json.dumps({"app_id": "bench", "models": {"default": "fake", "registry": registry}})
    )
    options = ("--system", "--no-reload", "--no-save-openapi", "--host", "127.0.0.1", "--port", str(port))
    serve = ["/bin/sh", "-c", f"cd {project} && exec {python.parent}/dspy-cli serve {' '.join(options)}"]
    with context.peer_environment() as environment, context.process(serve, environment) as process:
        _wait(f"http://127.0.0.1:{port}/openapi.json")
        yield Served(f"http://127.0.0.1:{port}/Ask", process.pid, lambda number: {"question": str(number)})


def _wait(url: str) -> None:
    wait_for(lambda: asyncio.run(_answers(url)), f"{url} to answer", timeout=60, every=0.2)


async def _answers(url: str) -> bool:
    try:
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False


async def _ask(served: Served, count: int) -> list[float]:
    """Milliseconds of each of so many requests, at most one of each user at a time."""
    numbers, taken = iter(range(count)), []

    async def user(session: aiohttp.ClientSession) -> None:
        for number in numbers:
            began = time.perf_counter()
            async with session.post(served.url, json=served.body(number), headers={"Prefer": "wait=60"}) as response:
                assert response.status == 200, await response.text()
                await response.read()
            taken.append((time.perf_counter() - began) * 1000)

    connector = aiohttp.TCPConnector(limit=USERS)
    async with aiohttp.ClientSession(connector=connector) as session:
        await asyncio.gather(*(user(session) for _ in range(USERS)))
    return taken
