"""A gateway of tests: the real server, on a port of this machine, in a thread of the test's process."""

from __future__ import annotations

import asyncio
import json
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from dspex.client.async_client import AsyncClient
from dspex.embedded.ports import free_port
from dspex.serve.application import application
from dspex.serve.gateway import Gateway
from dspex.serve.http_server import GatewayServer, server_config
from dspex.settings import Backends, Settings
from tests.waiting import wait_for

__all__ = ["Served", "events_of", "not_reading", "peak_growth", "serving"]


@dataclass(frozen=True, slots=True)
class Served:
    """A gateway that serves at ``url``; ``http`` sends requests to it."""

    url: str
    gateway: Gateway
    http: httpx.Client
    server: GatewayServer

    def bearer(self, key: str) -> httpx.Client:
        """Requests with a key. Close it."""
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {key}"}, timeout=120)


@contextmanager
def serving(backends: Backends, *, is_open: bool = True, **settings: Any) -> Iterator[Served]:
    """A gateway over these backends. ``is_open``: it needs no key."""
    loaded = Settings.load(database_url=backends.database_url, broker_url=backends.broker_url, **settings)
    port, made = free_port(), threading.Event()
    running: list[tuple[GatewayServer, Gateway]] = []

    async def run() -> None:
        async with AsyncClient(loaded) as client:
            app = application(client, is_open=is_open)
            server = GatewayServer(server_config(app, loaded, "127.0.0.1", port), app.state.gateway)
            running.append((server, app.state.gateway))
            made.set()
            await server.serve()

    thread = threading.Thread(target=asyncio.run, args=(run(),), name="gateway")
    thread.start()
    try:
        assert made.wait(60)
        server, gateway = running[0]
        wait_for(lambda: server.started or not thread.is_alive(), "the gateway to listen")
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, timeout=120) as http:
            yield Served(url, gateway, http, server)
    finally:
        if running:
            running[0][0].should_exit = True
        thread.join(60)


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


@contextmanager
def not_reading(url: str, path: str) -> Iterator[Callable[[], bool]]:
    """A client that asks for a path and reads nothing. Yields whether the server has reset its connection."""
    at = httpx.URL(url)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((at.host, at.port))
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {at.netloc.decode()}\r\n\r\n".encode())
        watched = select.poll()
        watched.register(connection, 0)
        yield lambda: any(events & select.POLLERR for _, events in watched.poll(0))


def peak_growth(pid: int, work: Callable[[], object]) -> int:
    """By how many bytes the resident memory of a process grows at most while this works."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak is that of now
    before = _peak(pid)
    work()
    return _peak(pid) - before


def _peak(pid: int) -> int:
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
