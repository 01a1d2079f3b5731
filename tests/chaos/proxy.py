"""A TCP proxy that does to a connection what networks do: delay, cut, half-close, swallow.

It runs in a thread of its own. What it is told holds for the connections there are and for those to come, until
:meth:`Proxy.restore`.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from urllib.parse import urlsplit, urlunsplit

from tests.own_loop import OwnLoop

__all__ = ["Proxy"]

CHUNK = 64 * 1024
COMMAND = re.compile(rb"\*\d+\r\n\$")
LOADING = b"-LOADING Redis is loading the dataset in memory\r\n"


class Proxy(OwnLoop):
    """Forwards ``host:port`` of its own to the server of ``url``; ``url`` becomes :attr:`url` for the clients."""

    def __init__(self, url: str, *, host: str = "127.0.0.1") -> None:
        super().__init__()
        self._upstream = urlsplit(url)
        self._host = host
        self._connections: set[asyncio.Task[None]] = set()
        self._open: asyncio.Event
        self._delay_seconds = 0.0
        self._refusing = self._loading = False
        self.accepted = 0
        #: The commands that were answered with LOADING.
        self.loading_answers = 0

    @property
    def url(self) -> str:
        """The server's URL, by way of this proxy."""
        credentials, at, _ = self._upstream.netloc.rpartition("@")
        return urlunsplit(self._upstream._replace(netloc=f"{credentials}{at}{self._host}:{self._port}"))

    def delay(self, seconds: float) -> None:
        """Hold back everything, in both directions, for so long."""
        self._delay_seconds = seconds

    def cut(self) -> None:
        """Close every connection, and refuse new ones."""
        self._refusing = True
        self._call(self._close_all())

    def swallow(self) -> None:
        """Accept everything and forward nothing, as a firewall that drops packets does."""
        self._call(self._shut())

    def load(self) -> None:
        """Close every connection, and answer each command of new ones as Redis does that loads its data set."""
        self._loading = True
        self._call(self._close_all())

    def half_close(self) -> None:
        """End the clients' side towards the server, and leave the other direction open."""
        self._call(self._end_requests())

    def restore(self) -> None:
        """Forward again; what was swallowed meanwhile arrives late."""
        self._delay_seconds = 0.0
        if self._loading:
            self._call(self._close_all())
        self._refusing = self._loading = False
        self._call(self._reopen())

    # What follows runs on the proxy's loop.

    async def _start(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self._upstreams: set[asyncio.StreamWriter] = set()
        self._server = await asyncio.start_server(self._accept, self._host, 0)
        self._port: int = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        self._server.close()
        await self._close_all()

    async def _close_all(self) -> None:
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _shut(self) -> None:
        self._open.clear()

    async def _reopen(self) -> None:
        self._open.set()

    async def _end_requests(self) -> None:
        for upstream in self._upstreams:
            upstream.write_eof()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self._refusing:
            writer.transport.abort()
            return
        task = asyncio.ensure_future(self._connect(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            if self._loading:
                await self._answer_loading(reader, writer)
                return
            upstream_reader, upstream = await asyncio.open_connection(self._upstream.hostname, self._upstream.port)
            self._upstreams.add(upstream)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._forward(reader, upstream))
                    group.create_task(self._forward(upstream_reader, writer))
            except* (OSError, RuntimeError):  # RuntimeError: writing after a half-close
                pass
            finally:
                self._upstreams.discard(upstream)
                upstream.transport.abort()
        writer.transport.abort()

    async def _answer_loading(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(CHUNK):
                commands = len(COMMAND.findall(data))
                self.loading_answers += commands
                writer.write(LOADING * commands)
                await writer.drain()
        finally:
            writer.transport.abort()

    async def _forward(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(CHUNK):
            if self._delay_seconds:
                await asyncio.sleep(self._delay_seconds)
            await self._open.wait()
            target.write(data)
            await target.drain()
        await self._open.wait()
        if not target.is_closing() and target.can_write_eof():
            target.write_eof()
