"""What a model call costs in CPU over each HTTP client: 200 at once, one process, the server in another.

``python -m tests.performance.bench_transports`` prints a table; :func:`measure` gives the figures. Clients that are not
installed are left out.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any

from lm15.transports import StdlibAsyncTransport, TransportRequest

from workers.lm.connect.http_transport import HttpTransport

__all__ = ["measure"]

AT_ONCE = 200
BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * 1500}]}).encode()
HEADERS = [("Content-Type", "application/json"), ("Authorization", "Bearer key")]

Post = Callable[[str], Awaitable[bytes]]


@asynccontextmanager
async def ours() -> AsyncIterator[Post]:
    transport = HttpTransport()
    yield over(transport)
    await transport.aclose()


@asynccontextmanager
async def lm15s() -> AsyncIterator[Post]:
    transport = StdlibAsyncTransport(max_connections=AT_ONCE)
    yield over(transport)
    await transport.aclose()


@asynccontextmanager
async def httpx_client() -> AsyncIterator[Post]:
    import httpx

    limits = httpx.Limits(max_connections=AT_ONCE, max_keepalive_connections=AT_ONCE)
    async with httpx.AsyncClient(limits=limits, timeout=60) as client:

        async def post(url: str) -> bytes:
            return (await client.post(url, content=BODY, headers=HEADERS)).content

        yield post


@asynccontextmanager
async def niquests_client() -> AsyncIterator[Post]:
    import niquests

    async with niquests.AsyncSession(pool_connections=1, pool_maxsize=AT_ONCE) as session:

        async def post(url: str) -> bytes:
            content: bytes = (await session.post(url, data=BODY, headers=dict(HEADERS))).content
            return content

        yield post


CLIENTS: dict[str, tuple[str, Callable[[], AbstractAsyncContextManager[Post]]]] = {
    "aiohttp (workers/lm/connect/http_transport.py)": ("aiohttp", ours),
    "lm15's own": ("lm15", lm15s),
    "httpx": ("httpx", httpx_client),
    "niquests": ("niquests", niquests_client),
}


def over(transport: Any) -> Post:
    """A post over a transport as lm15 uses it."""

    async def post(url: str) -> bytes:
        async with transport.stream(TransportRequest("POST", url, headers=HEADERS, body=BODY)) as reply:
            content: bytes = await reply.read()
            return content

    return post


def measure(calls: int = 1_000, repeats: int = 3) -> dict[str, float]:
    """Milliseconds of CPU a call, by client: medians of repeats, which alternate."""
    taken: dict[str, list[float]] = {name: [] for name, (package, _) in CLIENTS.items() if installed(package)}
    with model_server() as address:
        for _ in range(repeats):
            for name, figures in taken.items():
                figures.append(asyncio.run(cpu_ms(CLIENTS[name][1], f"{address}/0/v1/chat/completions", calls)))
    return {name: statistics.median(figures) for name, figures in taken.items()}


@contextmanager
def model_server() -> Iterator[str]:
    command = [sys.executable, "-m", "tests.performance.bench.model"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.kill()


async def cpu_ms(client: Callable[[], AbstractAsyncContextManager[Post]], url: str, calls: int) -> float:
    async with client() as post:
        await together(post, url, AT_ONCE)  # the connections are open
        began = time.process_time()
        await together(post, url, calls)
        return (time.process_time() - began) * 1000 / calls


async def together(post: Post, url: str, calls: int) -> None:
    waiting = iter(range(calls))

    async def one_after_the_other() -> None:
        for _ in waiting:
            assert b"choices" in await post(url)

    await asyncio.gather(*(one_after_the_other() for _ in range(AT_ONCE)))


def installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def main() -> None:
    print(f"{'client':36} {'CPU ms a call':>14}")
    for name, figure in measure().items():
        print(f"{name:36} {figure:14.2f}")


if __name__ == "__main__":
    main()
