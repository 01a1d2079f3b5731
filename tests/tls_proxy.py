"""A proxy that ends TLS before a server that has none: the servers in the wheels are built without it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from urllib.parse import urlsplit

import trustme

from tests.own_loop import OwnLoop

__all__ = ["TlsProxy"]

CHUNK = 64 * 1024
#: Postgres' first message of a client that wants TLS, and of one that wants GSSAPI's encryption.
SSL_REQUEST = bytes.fromhex("0000000804d2162f")
GSS_REQUEST = bytes.fromhex("0000000804d21630")


class TlsProxy(OwnLoop):
    """Forwards its port to the server of ``url``; who connects needs a certificate of ``clients``, if given."""

    def __init__(self, url: str, certificate: trustme.LeafCert, *, clients: trustme.CA | None = None) -> None:
        super().__init__()
        self._upstream = urlsplit(url)
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate.configure_cert(self._context)
        if clients is not None:
            clients.configure_trust(self._context)
            self._context.verify_mode = ssl.CERT_REQUIRED
        self._tasks: set[asyncio.Task[None]] = set()

    def url(self, scheme: str, path: str, query: str, *, host: str = "localhost") -> str:
        """The server's URL by way of this proxy, with the credentials of the server's own."""
        credentials, at, _ = self._upstream.netloc.rpartition("@")
        return f"{scheme}://{credentials}{at}{host}:{self._port}/{path}?{query}"

    async def _start(self) -> None:
        context = None if self._upstream.scheme == "postgresql" else self._context
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=context)
        self._port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._connect(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self._upstream.scheme == "postgresql":
                await self._agree_on_tls(reader, writer)
            source, target = await asyncio.open_connection(self._upstream.hostname, self._upstream.port)
        except (OSError, asyncio.IncompleteReadError, ConnectionError):
            writer.transport.abort()
            return
        with contextlib.suppress(asyncio.CancelledError):
            forwards = [asyncio.ensure_future(_forward(*ends)) for ends in ((reader, target), (source, writer))]
            try:
                await asyncio.wait(forwards, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for forward in forwards:
                    forward.cancel()
                await asyncio.gather(*forwards, return_exceptions=True)
                target.transport.abort()
                writer.transport.abort()

    async def _agree_on_tls(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """As Postgres does, and refuse whoever goes on without."""
        while (asked := await reader.readexactly(8)) == GSS_REQUEST:
            writer.write(b"N")
        if asked != SSL_REQUEST:
            raise ConnectionError("no TLS")
        writer.write(b"S")
        await writer.start_tls(self._context)


async def _forward(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, RuntimeError):
        while data := await source.read(CHUNK):
            target.write(data)
            await target.drain()
