"""Programs as tools of the Model Context Protocol, over streamable HTTP at ``/mcp``, with the official SDK.

Each request is served by itself (stateless), so any gateway can serve any of them. A call is an execution: it is
submitted, waited for, and cancelled when its caller cancels it or goes away.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from typing import Any

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from dspex.client.execution import AsyncExecution
from dspex.errors import DspexError, ExecutionFailed, ValidationError
from dspex.program.program import Program
from dspex.serve.access.access_check import KEY_ENDED
from dspex.serve.access.principal import LOCAL, Principal
from dspex.serve.api.execution_routes import submit, whole
from dspex.serve.api.problem_details import HttpRefusal, detail_of, problem_of, response_of
from dspex.serve.api.program_routes import summaries
from dspex.serve.api.request_bodies import within
from dspex.serve.gateway import Gateway

__all__ = ["McpEndpoint", "is_available"]

PATH = "/mcp"
#: Names of tools have these characters only.
_OTHER = re.compile(r"[^A-Za-z0-9_-]")
_principal: ContextVar[Principal] = ContextVar("principal", default=LOCAL)


def is_available() -> bool:
    """Whether the SDK is installed."""
    return find_spec("mcp") is not None


class McpEndpoint:
    """The tools of a gateway. :meth:`running` must hold while requests are served."""

    def __init__(self, gateway: Gateway) -> None:
        from mcp.server.lowlevel import Server
        from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

        self._gateway = gateway
        server = Server("dspex", on_list_tools=self._list_tools, on_call_tool=self._call_tool)
        self._manager = StreamableHTTPSessionManager(app=server, stateless=True)

    @property
    def route(self) -> Route:
        """Where it is served."""
        return Route(PATH, self, methods=["POST"])  # no stream beside the one of a request

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve while the block runs."""
        async with self._manager.run():
            yield

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._serve(within(Request(scope, receive), self._gateway.settings.serve_read_seconds), send)
        except HttpRefusal as refusal:
            await response_of(refusal)(scope, receive, send)
        except DspexError as error:
            await problem_of(error)(scope, receive, send)

    async def _serve(self, request: Request, send: Send) -> None:
        token = _principal.set(await self._gateway.access.of_request(request))
        try:
            await self._manager.handle_request(request.scope, request.receive, send)
        finally:
            _principal.reset(token)

    async def _list_tools(self, _context: Any, _params: Any) -> Any:
        from mcp import types

        found = await summaries(self._gateway, _principal.get())
        tools = [_tool(each.program) for each in found if each.program is not None]
        return types.ListToolsResult.model_validate({"tools": tools})

    async def _call_tool(self, _context: Any, params: Any) -> Any:
        from mcp import types

        return types.CallToolResult.model_validate(await self._called(params.name, params.arguments or {}))

    async def _called(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        principal = _principal.get()
        try:
            program = await self._program(principal, tool)
            execution = await submit(self._gateway, principal, program.name, arguments)
            async with self._gateway.access.while_in_force(principal) as lasting:
                await self._settled(execution)
            if lasting.cancel_called:
                raise HttpRefusal(401, "not_authenticated", KEY_ENDED)
            result = (await whole(self._gateway, execution))["result"]
        except (HttpRefusal, DspexError) as error:
            return _failed(error)
        text = json.dumps(result, ensure_ascii=False)
        return {"content": [{"type": "text", "text": text}], "structuredContent": result, "isError": False}

    async def _settled(self, execution: AsyncExecution) -> None:
        """Wait for the outcome. Raises ExecutionFailed, ExecutionCancelled."""
        try:
            await execution.result()
        except asyncio.CancelledError:  # by the caller, or because it or its key is gone
            await asyncio.shield(execution.cancel())
            raise

    async def _program(self, principal: Principal, tool: str) -> Program:
        """The program that a tool stands for. Raises HttpRefusal."""
        for each in await summaries(self._gateway, principal):
            if each.program is not None and _name(each.program) == tool:
                return each.program
        raise HttpRefusal(404, "program_not_found", f"there is no tool {tool!r}")


def _tool(program: Program) -> dict[str, Any]:
    signature = program.signature
    return {
        "name": _name(program),
        "description": signature.description or f"Execute the program {program.name}.",
        "inputSchema": signature.json_schema("inputs"),
        "outputSchema": signature.json_schema("outputs"),
    }


def _name(program: Program) -> str:
    return _OTHER.sub("_", program.name)[:64]


def _failed(error: HttpRefusal | DspexError) -> dict[str, Any]:
    """A result that says what went wrong, so that a model can send other arguments."""
    if isinstance(error, HttpRefusal):
        text = f"{error.code}: {error.detail}"
    elif isinstance(error, ValidationError):
        text = "\n".join([error.code, *(str(fault) for fault in error.errors)])
    else:
        code = error.cause.code if isinstance(error, ExecutionFailed) else error.code
        text = f"{code}: {detail_of(error)}"
    return {"content": [{"type": "text", "text": text}], "isError": True}
