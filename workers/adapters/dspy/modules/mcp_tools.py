"""Tools of MCP servers, by the protocol's own SDK (the extra ``mcp``): one session with each server in a process.

A server is one of DSPEX_MCP_SERVERS: a program is data that others may write, and must not start commands or send what
it reads to any address.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from types import MappingProxyType
from typing import Any

import dspy

from dspex.errors import ModuleNotAllowed, ProgramError
from dspex.program.modules import is_mcp
from dspex.program.program import Program
from dspex.settings import McpServer, Settings
from workers.adapters.dspy.run_loop import running_loop
from workers.lm.connect.provider_keys import Keys

__all__ = ["McpServers", "found_tools"]

log = logging.getLogger("dspex.workers")

#: How long opening a session may take: a command may be installed first.
OPEN_SECONDS = 30.0

#: The tools of the program that is built, by the reference to their server.
found_tools: contextvars.ContextVar[Mapping[str, Sequence[dspy.Tool]]] = contextvars.ContextVar(
    "found_tools",
    default=MappingProxyType({}),
)


class McpServers:
    """The sessions of a worker process. They belong to its loop."""

    def __init__(self) -> None:
        self._allowed = Settings.load().mcp_servers
        self._sessions: dict[str, _Session] = {}

    async def tools_of(self, program: Program) -> dict[str, Sequence[dspy.Tool]]:
        """The tools that the program takes from servers, by reference.

        Raises ModuleNotAllowed for a server that is not in DSPEX_MCP_SERVERS, ProgramError ``code_not_found`` for one
        that cannot be reached, and for a tool that it does not have: another worker may have it.
        """
        return {reference: await self._tools(program, reference) for reference in program.tools if is_mcp(reference)}

    async def aclose(self) -> None:
        """End the sessions."""
        sessions = list(self._sessions.values())
        self._sessions.clear()
        await asyncio.gather(*(session.aclose() for session in sessions))

    async def _tools(self, program: Program, reference: str) -> Sequence[dspy.Tool]:
        address, _, chosen = reference.partition("#")
        session = self._session(program, address)
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                listed = {tool.name: tool for tool in await session.list_tools()}
        except Exception as error:  # the boundary to the SDK, and to the server
            raise _unavailable(program, reference, f"cannot be used here ({_innermost(error)})") from error
        names = chosen.split(",") if chosen else list(listed)
        if missing := [name for name in names if name not in listed]:
            raise _unavailable(program, reference, f"has no tool {', '.join(map(repr, missing))}")
        return [dspy.Tool.from_mcp_tool(session, listed[name]) for name in names]

    def _session(self, program: Program, address: str) -> _Session:
        server = self._allowed.get(address)
        if server is None:
            listed = ", ".join(self._allowed) or "none"
            raise ModuleNotAllowed(
                f"program {program.name!r} wants the tools of {address!r}, and this worker allows these: {listed}"
                "; add it to DSPEX_MCP_SERVERS if you trust it, and start the worker again",
                program=program.name,
                reference=address,
            )
        return self._sessions.setdefault(address, _Session(address, server))


class _Session:
    """A session with one server, in a task of its own: the SDK has to end it in the task that began it. One that broke
    is opened again by the next call."""

    def __init__(self, address: str, server: McpServer) -> None:
        self._address = address
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[Any] = self._loop.create_future()
        self._over = asyncio.Event()

    async def list_tools(self) -> Sequence[Any]:
        return list((await (await self._client()).list_tools()).tools)

    async def call_tool(self, name: str, arguments: dict[str, Any] | None = None) -> Any:
        """As the SDK's, from any loop."""
        if running_loop() is self._loop:
            return await self._call(name, arguments)
        called = asyncio.run_coroutine_threadsafe(self._call(name, arguments), self._loop)
        return await asyncio.wrap_future(called)

    async def aclose(self) -> None:
        self._over.set()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def _call(self, name: str, arguments: dict[str, Any] | None) -> Any:
        client = await self._client()
        try:
            return await client.call_tool(name, arguments)
        except Exception:
            self._over.set()
            raise

    async def _client(self) -> Any:
        if self._task is None or self._over.is_set() or self._task.done():
            self._ready, self._over = self._loop.create_future(), asyncio.Event()
            serving = self._serve(self._ready, self._over)
            self._task = self._loop.create_task(serving, name="mcp-session", context=contextvars.Context())
        return await asyncio.shield(self._ready)

    async def _serve(self, ready: asyncio.Future[Any], over: asyncio.Event) -> None:
        try:
            async with _opened(self._address, self._server) as client:
                ready.set_result(client)
                await over.wait()
        except Exception as error:  # the boundary to the SDK, and to the server
            if ready.done():
                log.warning("the session with %s broke: %s", self._address, _innermost(error))
            else:
                ready.set_exception(error)


@asynccontextmanager
async def _opened(address: str, server: McpServer) -> AsyncIterator[Any]:
    """The SDK's client. Raises ImportError without the SDK, and whatever the SDK raises."""
    from mcp.client import Client
    from mcp.client.stdio import StdioServerParameters, get_default_environment, stdio_client
    from mcp.client.streamable_http import streamable_http_client
    from mcp.shared._httpx_utils import create_mcp_http_client

    keys = Keys()
    async with AsyncExitStack() as stack:
        if server.command:
            named = {name: f"${{{name}}}" for name in server.environment}
            given = dict(await keys.headers(address, named))
            command, *arguments = server.command
            environment = {**get_default_environment(), **given}
            transport = stdio_client(StdioServerParameters(command=command, args=arguments, env=environment))
        else:
            headers = dict(await keys.headers(address, server.headers))
            http = await stack.enter_async_context(create_mcp_http_client(headers=headers))
            transport = streamable_http_client(address.removeprefix("mcp+"), http_client=http)
        yield await stack.enter_async_context(Client(transport))


def _unavailable(program: Program, reference: str, why: str) -> ProgramError:
    return ProgramError(
        f"program {program.name!r}: the MCP server {reference!r} {why}",
        code="code_not_found",
        retryable=True,
        program=program.name,
        reference=reference,
    )


def _innermost(error: BaseException) -> str:
    """The error's class; of a group, of its first error. A missing module is named."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    missing = f": pip install 'dspex[mcp]' ({error})" if isinstance(error, ImportError) else ""
    return f"{type(error).__name__}{missing}"
