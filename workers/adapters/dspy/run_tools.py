"""Tool calls of a run: what a tool returned is in the journal, so that a later attempt does not call it again.

A result that is no data (see :mod:`workers.adapters.dspy.values.tool_values`), and an error, are not kept: such a tool
is called again. A tool that ``dspex.tool`` marks as called once, or only after an approval, is different: both are
kept, and before the call its intention is.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from functools import lru_cache, partial
from types import SimpleNamespace
from typing import Any

import dspy
from dspy.utils.callback import with_callbacks

from dspex.errors import ProgramError
from dspex.program.calls.tool_policy import key_of_call, policy_of
from workers.adapters.contract import Decision, ToolResult
from workers.adapters.dspy.engine_bridge import HostedRun, current_run, give_way
from workers.adapters.dspy.thread_context import call_in_thread
from workers.adapters.dspy.values.tool_values import NotKeptError, kept, made_again
from workers.attempt.sync_threads import run_sync
from workers.observe.tracing import tool_call

__all__ = ["acall_tool", "call_as_tool", "call_tool"]

_acall_plain = dspy.Tool.acall
_call_plain = dspy.Tool.__call__


@with_callbacks  # type: ignore[untyped-decorator]
async def acall_tool(self: dspy.Tool, **arguments: Any) -> Any:
    """``dspy.Tool.acall``: the function of the user runs in a thread, unless it is a coroutine function."""
    hosted = current_run.get()
    if hosted is None or _is_dspys(self):
        return await inspect.unwrap(_acall_plain)(self, **arguments)
    call = _ToolCall(hosted, self, arguments)
    known = await hosted.loop.acall(call.begin)
    if known is not None:
        return _known_value(known)
    try:
        with tool_call(self.name), key_of_call(call.key), call:
            result = await _result(self, arguments, call.policy.timeout, in_thread=hosted.loop.is_here)
            call.show(result)
    except Exception as error:
        failed = error
        await hosted.loop.acall(lambda: call.keep_error(failed))
        raise
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
    known = hosted.loop.call(call.begin)
    if known is not None:
        return _known_value(known)
    try:
        with tool_call(self.name), key_of_call(call.key), call:
            seconds = call.policy.timeout
            call_plain = partial(inspect.unwrap(_call_plain), self, **arguments)
            result = call_plain() if seconds is None else call_in_thread(call_plain, seconds)
            call.show(result)
    except Exception as error:
        failed = error
        hosted.loop.call(lambda: call.keep_error(failed))
        raise
    hosted.loop.call(lambda: call.keep(result))
    return result


def call_as_tool(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """A call of a marked function by the code of a program: its result, or what is awaited for it."""
    made = _tool_of(function)
    return made.acall(**arguments) if _is_async(function) else made(**arguments)


@lru_cache(maxsize=256)
def _tool_of(function: Callable[..., Any]) -> dspy.Tool:
    return dspy.Tool(function)


async def _result(tool: dspy.Tool, arguments: Mapping[str, Any], seconds: float | None, *, in_thread: bool) -> Any:
    """Raises TimeoutError when the call takes longer than ``seconds``."""
    try:
        async with asyncio.timeout(seconds) as limit:
            if in_thread and not _is_async(tool.func):
                return await _result_of_thread(tool, arguments)
            return await inspect.unwrap(_acall_plain)(tool, **arguments)
    except TimeoutError:
        if limit.expired():
            raise TimeoutError(f"no result within {seconds:g} s") from None
        raise


async def _result_of_thread(tool: dspy.Tool, arguments: Mapping[str, Any]) -> Any:
    """An error is raised within DSPy's own call: agents show tracebacks to the model, and this one is DSPy's then."""
    parsed = tool._validate_and_parse_args(**arguments)
    try:
        result = await run_sync(tool.func, **parsed)
    except Exception as error:  # the boundary to the user's code
        failed = SimpleNamespace(_validate_and_parse_args=dict, func=partial(_raise, error))
        return await inspect.unwrap(_acall_plain)(failed)
    return await result if inspect.isawaitable(result) else result


def _raise(error: Exception) -> None:
    raise error


class _ToolCall:
    """One call, recorded in the trail when its block ends. The program is not left within the block."""

    def __init__(self, hosted: HostedRun, tool: dspy.Tool, arguments: Mapping[str, Any]) -> None:
        self._hosted = hosted
        self._run = hosted.run
        self._loop = hosted.loop
        self.name = str(tool.name)
        self.policy = policy_of(tool.func)
        self._given = arguments
        self._arguments = _kept(arguments)
        self._digest = None if self._arguments is None else _digest(self.name, self._arguments.value)
        self._is_durable = self.policy.once or self.policy.approve
        self._began_at: datetime | None = None
        self._under_way: AbstractContextManager[None] | None = None
        #: What ``dspex.idempotency_key`` returns.
        self.key = ""

    async def begin(self) -> ToolResult | None:
        """What an earlier attempt got from this call, or what stands in its place; None when it is to be made.

        Raises ProgramError ``tool_outcome_unknown``, and for arguments that cannot be stored.
        """
        self._number()
        known = self._known()
        if known is None and self._is_durable:
            known = await self._permitted()
        if known is None and self._run.waits is not None:
            self._under_way = self._run.waits.under_way()
            self._under_way.__enter__()
        return known

    def _known(self) -> ToolResult | None:
        """What an earlier attempt got; None as well if it is of a class that is not there any more.

        Raises ProgramError for a durable tool then.
        """
        known = None if self._digest is None else self._run.journal.tool_result(self._digest, self.name)
        try:
            return known and ToolResult(made_again(known.value), known.error)
        except NotKeptError:
            if self._is_durable:
                raise ProgramError(
                    f"the result of tool {self.name!r} is of a class that is not there any more", tool=self.name
                ) from None
            return None

    def _number(self) -> None:
        """Name the call among equal ones: each durable one has its own result and intention."""
        waits = self._run.waits
        if self._digest is None and self._is_durable:
            raise ProgramError(
                f"tool {self.name!r} is called with arguments that cannot be stored: a tool with once or approve needs "
                "data", tool=self.name,
            )  # fmt: skip
        digest = self._digest or self.name
        place = 0 if waits is None else waits.tool_place(digest)
        self.key = hashlib.sha256(f"{self._run.execution_id}:{digest}:{place}".encode()).hexdigest()[:32]
        if self._is_durable:
            self._digest = hashlib.sha256(f"{digest}:{place}".encode()).hexdigest()

    async def _permitted(self) -> ToolResult | None:
        """None when the call may be made; else what the agent observes in its place."""
        waits, digest = self._run.waits, str(self._digest)
        if waits is None:
            return None
        await give_way()
        if self.policy.approve:
            decision = await waits.decision(digest, self.name, self._stored_arguments, self.policy.expires)
            if not decision.approved:
                return await self._rejected(decision)
        if self.policy.once and not await waits.intend(digest, self.name):
            return await self._of_unknown_outcome()
        return None

    async def _of_unknown_outcome(self) -> ToolResult | None:
        """This call was begun before, and broken off before its result was stored: its worker died, for example."""
        waits = self._run.waits
        assert waits is not None
        if self.policy.on_unknown == "fail":
            self._hosted.end_program(ProgramError(
                f"tool {self.name!r} was called before, and its result is not known: find out what it "
                'did; on_unknown="retry" or "approve" of dspex.tool calls it again',
                code="tool_outcome_unknown", tool=self.name, key=self.key,
            ))  # fmt: skip
        if self.policy.on_unknown == "approve":
            again = hashlib.sha256(f"{self._digest}:again".encode()).hexdigest()
            decision = await waits.decision(again, self.name, self._stored_arguments, self.policy.expires)
            if not decision.approved:
                return await self._rejected(decision)
        return None

    async def _rejected(self, decision: Decision) -> ToolResult:
        """The rejection, as the agent observes it."""
        note = f": {decision.note}" if decision.note else ""
        text = f"The call of {self.name} was rejected by {decision.by}{note}"
        await self._store(text)
        return ToolResult(text)

    async def keep(self, result: Any) -> None:
        """Store what the tool returned."""
        value = _kept(result)
        if value is not None and self._digest is not None:
            await self._store(value.value)
        elif self._is_durable:
            await self._store(str(result))  # known to have been called is what counts

    async def keep_error(self, error: Exception) -> None:
        """Store what a tool raised that must not be called again."""
        if self._is_durable:
            await self._store(None, error={"type": type(error).__name__, "message": str(error)})

    def show(self, result: Any) -> None:
        """In the span of the call, where traces have such content."""
        self._run.journal.show_tool(self._given, result)

    async def _store(self, value: Any, error: Mapping[str, str] | None = None) -> None:
        began_at = self._began_at or self._run.trail.now()
        await self._run.journal.keep_tool_result(
            str(self._digest), self.name, value, began_at, self._stored_arguments, error=error,
            always=self._is_durable,
        )  # fmt: skip

    @property
    def _stored_arguments(self) -> Mapping[str, Any]:
        assert self._arguments is not None  # else the call has no digest, and is neither kept nor durable
        stored: Mapping[str, Any] = self._arguments.value
        return stored

    def __enter__(self) -> None:
        self._began_at = self._run.trail.now()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._under_way is not None:
            self._loop.post(lambda: _exit(self._under_way))
        if kind is None or issubclass(kind, Exception):
            failed = {} if kind is None else {"error": kind.__name__}
            self._run.trail.record("tool_call", began_at=self._began_at, tool=self.name, ok=kind is None, **failed)


def _exit(entered: AbstractContextManager[None] | None) -> None:
    if entered is not None:
        entered.__exit__(None, None, None)


def _known_value(known: ToolResult) -> Any:
    """What an earlier attempt got; an error is raised again, under its name."""
    if known.error is None:
        return known.value
    raise type(known.error["type"], (Exception,), {})(known.error["message"])


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
