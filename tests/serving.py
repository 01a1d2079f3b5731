"""A gateway of tests: the real server, on a port of this machine, in a thread of the test's process."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn

from dspex.client.async_client import AsyncClient
from dspex.embedded.ports import free_port
from dspex.serve.application import application
from dspex.serve.gateway import Gateway
from dspex.serve.http_server import GatewayServer
from dspex.settings import Backends, Settings
from tests.waiting import wait_for

__all__ = ["Served", "events_of", "serving"]


@dataclass(frozen=True, slots=True)
class Served:
    """A gateway that serves at ``url``; ``http`` sends requests to it."""

    url: str
    gateway: Gateway
    http: httpx.Client

    def bearer(self, key: str) -> httpx.Client:
        """Requests with a key. Close it."""
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {key}"}, timeout=30)


@contextmanager
def serving(backends: Backends, *, is_open: bool = True, **settings: Any) -> Iterator[Served]:
    """A gateway over these backends. ``is_open``: it needs no key."""
    loaded = Settings.load(database_url=backends.database_url, broker_url=backends.broker_url, **settings)
    port, made = free_port(), threading.Event()
    running: list[tuple[GatewayServer, Gateway]] = []

    async def run() -> None:
        async with AsyncClient(loaded) as client:
            app = application(client, is_open=is_open)
            config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", lifespan="on")
            server = GatewayServer(config, app.state.gateway)
            running.append((server, app.state.gateway))
            made.set()
            await server.serve()

    thread = threading.Thread(target=asyncio.run, args=(run(),), name="gateway")
    thread.start()
    try:
        assert made.wait(30)
        server, gateway = running[0]
        wait_for(lambda: server.started or not thread.is_alive(), "the gateway to listen")
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, timeout=30) as http:
            yield Served(url, gateway, http)
    finally:
        if running:
            running[0][0].should_exit = True
        thread.join(30)


def events_of(lines: Iterator[str]) -> Iterator[tuple[str, str, Any]]:
    """The id, the kind and the data of each server-sent event."""
    event: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            event[name] = value
        elif "data" in event:
            yield event.get("id", ""), event["event"], json.loads(event["data"])
            event = {}
