"""Tool calls of a run: what a tool returned is in the journal, so that a later attempt does not call it again.

A result that is no data (see :mod:`workers.adapters.dspy.values.tool_values`), and an error, are not kept: such a tool
is called again.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Any

import dspy
from dspy.utils.callback import with_callbacks

from dspex.program.marked_functions import tool_options
from workers.adapters.contract import ToolResult
from workers.adapters.dspy.engine_bridge import HostedRun, current_run
from workers.adapters.dspy.thread_context import call_in_thread
from workers.adapters.dspy.values.tool_values import NotKeptError, kept, made_again
from workers.attempt.sync_threads import run_sync
from workers.observe.tracing import tool_call

__all__ = ["acall_tool", "call_tool"]

_acall_plain = dspy.Tool.acall
_call_plain = dspy.Tool.__call__


@with_callbacks  # type: ignore[untyped-decorator]
async def acall_tool(self: dspy.Tool, **arguments: Any) -> Any:
    """``dspy.Tool.acall``: the function of the user runs in a thread, unless it is a coroutine function."""
    hosted = current_run.get()
    if hosted is None or _is_dspys(self):
        return await inspect.unwrap(_acall_plain)(self, **arguments)
    call = _ToolCall(hosted, self, arguments)
    known = await hosted.loop.acall(call.find)
    if known is not None:
        return known.value
    with tool_call(self.name), call:
        parsed = self._validate_and_parse_args(**arguments)
        result = await _result(self.func, parsed, in_thread=hosted.loop.is_here)
        call.show(result)
    await hosted.loop.acall(lambda: call.keep(result))
    return result


@with_callbacks  # type: ignore[untyped-decorator]
def call_tool(self: dspy.Tool, **arguments: Any) -> Any:
    """``dspy.Tool.__call__``: in a thread, where the function may block."""
    hosted = current_run.get()
    if hosted is None or _is_dspys(self):
        return inspect.unwrap(_call_plain)(self, **arguments)
    hosted.loop.refuse_to_block()
    call = _ToolCall(hosted, self, arguments)
    known = hosted.loop.call(call.find)
    if known is not None:
        return known.value
    with tool_call(self.name), call:
        seconds = tool_options(self.func).timeout
        call_plain = partial(inspect.unwrap(_call_plain), self, **arguments)
        result = call_plain() if seconds is None else call_in_thread(call_plain, seconds)
        call.show(result)
    hosted.loop.call(lambda: call.keep(result))
    return result


async def _result(function: Callable[..., Any], arguments: Mapping[str, Any], *, in_thread: bool) -> Any:
    """Raises TimeoutError when the call takes longer than the function's own options allow."""
    seconds = tool_options(function).timeout
    try:
        async with asyncio.timeout(seconds) as limit:
            if _is_async(function) or not in_thread:
                result = function(**arguments)
            else:
                result = await run_sync(function, **arguments)
            return await result if inspect.isawaitable(result) else result
    except TimeoutError:
        if limit.expired():
            raise TimeoutError(f"no result within {seconds:g} s") from None
        raise


class _ToolCall:
    """One call, recorded in the trail when its block ends."""

    def __init__(self, hosted: HostedRun, tool: dspy.Tool, arguments: Mapping[str, Any]) -> None:
        self._run = hosted.run
        self._name = str(tool.name)
        self._given = arguments
        self._arguments = _kept(arguments)
        self._digest = None if self._arguments is None else _digest(self._name, self._arguments.value)
        self._began_at: datetime | None = None

    async def find(self) -> ToolResult | None:
        """What an earlier attempt got from this call."""
        known = None if self._digest is None else self._run.journal.tool_result(self._digest, self._name)
        try:
            return None if known is None else ToolResult(made_again(known.value))
        except NotKeptError:  # its class is not there any more
            return None

    async def keep(self, result: Any) -> None:
        value, arguments = _kept(result), self._arguments
        if value is None or arguments is None or self._digest is None:
            return
        assert self._began_at is not None
        await self._run.journal.keep_tool_result(self._digest, self._name, value.value, self._began_at, arguments.value)

    def show(self, result: Any) -> None:
        """In the span of the call, where traces have such content."""
        self._run.journal.show_tool(self._given, result)

    def __enter__(self) -> None:
        self._began_at = self._run.trail.now()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or issubclass(kind, Exception):
            failed = {} if kind is None else {"error": kind.__name__}
            self._run.trail.record("tool_call", began_at=self._began_at, tool=self._name, ok=kind is None, **failed)


def _is_dspys(tool: dspy.Tool) -> bool:
    """Whether it is one of DSPy's own, such as the ``finish`` of an agent, which does nothing."""
    return str(getattr(tool.func, "__module__", "")).startswith("dspy.predict.")


def _kept(value: Any) -> ToolResult | None:
    """The value as the journal keeps it; None for one that is no data."""
    try:
        return ToolResult(kept(value))
    except NotKeptError:
        return None


def _digest(name: str, arguments: Mapping[str, Any]) -> str:
    """Names the call by tool and arguments."""
    text = json.dumps({"tool": name, "arguments": arguments}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)
