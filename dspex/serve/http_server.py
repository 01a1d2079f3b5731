"""The server of ``dspex serve``: uvicorn with bounds, which ends streams before it waits for requests to finish."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import struct
from collections.abc import Callable
from typing import ClassVar

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from dspex.client.async_client import AsyncClient
from dspex.serve.application import application
from dspex.serve.gateway import Gateway
from dspex.settings import Settings

__all__ = ["GatewayServer", "serve", "server_config"]

#: The most connections of one process, streams among them.
CONNECTIONS_BESIDE_STREAMS = 2000
#: How long an idle connection is kept for the next request.
KEEP_ALIVE_SECONDS = 20
#: How many new objects there are before Python's collector looks for cycles: a few dozen requests have as many.
YOUNG_OBJECTS = 20_000
#: The largest request line and headers.
HEADER_BYTES = 64 * 1024


class GatewayServer(uvicorn.Server):
    """A server whose gateway ends its streams first when it stops."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway) -> None:
        super().__init__(config)
        self._gateway = gateway

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams, whose clients reconnect to another process, and wait for the other requests."""
        self._gateway.stopping = True
        await super().shutdown(sockets)


def serve(settings: Settings, *, host: str, port: int, root_path: str, is_open: bool) -> None:
    """Serve until SIGTERM or Ctrl-C. ``root_path`` is the path under which a proxy serves it."""
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn handles them while it serves, and sends them again once it has stopped: then they end nothing more.
        signal.signal(number, lambda _number, _frame: None)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(settings, host, port, root_path, is_open=is_open))


async def _serve(settings: Settings, host: str, port: int, root_path: str, *, is_open: bool) -> None:
    async with AsyncClient(settings) as client:
        app = application(client, is_open=is_open)
        gateway: Gateway = app.state.gateway
        gc.collect()
        gc.freeze()  # what is there now stays: it need not be searched for cycles again and again
        gc.set_threshold(YOUNG_OBJECTS)
        await GatewayServer(server_config(app, settings, host, port, root_path), gateway).serve()


def server_config(app: Starlette, settings: Settings, host: str, port: int, root_path: str = "") -> uvicorn.Config:
    """How the application is served."""
    return uvicorn.Config(
        app, host=host, port=port, root_path=root_path, lifespan="on", server_header=False, date_header=True,
        access_log=False, log_level="warning", timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(settings.grace_seconds),
        limit_concurrency=settings.serve_max_streams + CONNECTIONS_BESIDE_STREAMS,
        proxy_headers=False, http=type("Protocol", (PromptProtocol,), {"seconds": settings.serve_read_seconds}),
    )  # fmt: skip


class PromptProtocol(HttpToolsProtocol):
    """The protocol of connections whose clients take at most ``seconds`` for the head of a request, and for the rest of
    a body after its response, and pause for at most so long while they read a response.

    What a client does not read stays in memory, and its connection would stay open for ever: also one that is closed,
    as that waits for the rest to be sent.
    """

    seconds: ClassVar[float]
    _look: asyncio.TimerHandle | None = None
    _patience: asyncio.TimerHandle | None = None
    #: How many bytes of a head have come; None while a body is expected.
    _head: int | None = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._patience = self.loop.call_later(self.seconds, transport.close)

    def data_received(self, data: bytes) -> None:
        if self._head is not None:
            self._head += len(data)
        super().data_received(data)
        if self._head and not self.transport.is_closing():  # it is not complete
            if self._head > HEADER_BYTES:
                self.send_400_response(f"The head of a request may have {HEADER_BYTES} bytes.")
            elif self._patience is None:
                self._patience = self.loop.call_later(self.seconds, self.transport.close)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._head = None
        self._be_patient()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._head = 0
        self._be_patient()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._head is None and self._patience is None:  # nothing waits for the rest of the body
            self._patience = self.loop.call_later(self.seconds, self.transport.close)

    def _be_patient(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def pause_writing(self) -> None:
        super().pause_writing()
        self._look_later()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._look_no_more()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._look_no_more()
        self._be_patient()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        if self.transport.get_write_buffer_size():
            self._look_later()

    def _look_later(self) -> None:
        self._look_no_more()
        left = self.transport.get_write_buffer_size()
        self._look = self.loop.call_later(self.seconds, self._end_unless_less, left)

    def _look_no_more(self) -> None:
        if self._look is not None:
            self._look.cancel()
            self._look = None

    def _end_unless_less(self, than: int) -> None:
        if self.transport.get_write_buffer_size() >= than:
            _reset(self.transport)
        else:
            self._look_later()


def _reset(transport: asyncio.Transport) -> None:
    """End a connection at once. Without a reset the kernel would go on to offer its client what it has not read."""
    fd = transport.get_extra_info("socket").fileno()
    with socket.socket(fileno=os.dup(fd)) as connection:  # uvloop's own socket sets no options
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's loops where it is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
