"""Tools of programs: what their functions say about how they are called."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar, cast, overload

from dspex.errors import FieldError, ValidationError
from dspex.program.calls.parameters import signature_of

__all__ = ["ON_UNKNOWN", "ToolPolicy", "idempotency_key", "key_of_call", "policy_of", "tool", "tool_caller"]

F = TypeVar("F", bound=Callable[..., Any])

#: What is done about a call whose worker died before its result was stored.
ON_UNKNOWN = ("fail", "retry", "approve")
#: The longest time that one call of a tool may have: a day.
LONGEST_SECONDS = 86_400.0
_ATTRIBUTE = "__dspex_tool__"


@dataclass(frozen=True, slots=True)
class ToolPolicy:
    """How a tool is called: see :func:`tool`."""

    once: bool = False
    approve: bool = False
    timeout: float | None = None
    on_unknown: str = "fail"
    expires: float | None = None

    def faults(self) -> Iterator[FieldError]:
        for name in ("once", "approve"):
            if not isinstance(getattr(self, name), bool):
                yield FieldError(name, "True or False", repr(getattr(self, name))[:80])
        if self.on_unknown not in ON_UNKNOWN:
            yield FieldError("on_unknown", f"one of {', '.join(ON_UNKNOWN)}", repr(self.on_unknown)[:80])
        for name in ("timeout", "expires"):
            value = getattr(self, name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if value is not None and not (is_number and value > 0):
                yield FieldError(name, "seconds, more than 0", repr(value)[:80])
        if isinstance(self.timeout, int | float) and self.timeout > LONGEST_SECONDS:
            yield FieldError("timeout", f"at most {LONGEST_SECONDS:.0f} seconds", repr(self.timeout)[:80])


@overload
def tool(function: F, /) -> F: ...


@overload
def tool(
    *,
    once: bool = False,
    approve: bool = False,
    timeout: float | None = None,
    on_unknown: str = "fail",
    expires: float | None = None,
) -> Callable[[F], F]: ...


def tool(
    function: F | None = None,
    /,
    *,
    once: bool = False,
    approve: bool = False,
    timeout: float | None = None,
    on_unknown: str = "fail",
    expires: float | None = None,
) -> F | Callable[[F], F]:
    """Mark a function as a tool, with options for its calls. A plain function is a tool, too::

        @dspex.tool(once=True, timeout=30)
        def refund(order_id: str, cents: int) -> str:
            "Refund an order."

    ``once``        never call it again without knowing what became of the first call. Before the call the intention is
                    stored, and afterwards the result, also when it is an error. An attempt that finds an intention
                    without a result, because a worker died, does what ``on_unknown`` says
    ``on_unknown``  ``"fail"`` ends the execution with ``tool_outcome_unknown``; ``"retry"`` calls the tool again (use
                    :func:`idempotency_key` there); ``"approve"`` waits until somebody decides whether to call it again
    ``approve``     wait until somebody approves the call: ``client.approvals()``, ``dspex approvals``
    ``expires``     seconds after which a call without a decision counts as rejected
    ``timeout``     seconds that one call may take. The agent observes a longer one as an error, and goes on. A function
                    that is not asynchronous goes on in its thread meanwhile

    What a tool returned is journaled: a later attempt does not call it again. This holds for calls by agents and by the
    code of a program; elsewhere the function is just called, so it can be tested like any other.

    Raises ValidationError.
    """
    policy = ToolPolicy(once, approve, timeout, on_unknown, expires)
    if faults := list(policy.faults()):
        raise ValidationError.of("dspex.tool", faults)

    def mark(plain: F) -> F:
        marked = _marked(plain)
        setattr(marked, _ATTRIBUTE, policy)
        return marked

    return mark if function is None else mark(function)


def _marked(function: F) -> F:
    """The function, which is called as a tool where the code of a program calls it."""
    parameters = signature_of(function)

    @functools.wraps(function)
    def call(*given: Any, **named: Any) -> Any:
        caller = tool_caller.get()
        if caller is None:
            return function(*given, **named)
        bound = parameters.bind(*given, **named)
        bound.apply_defaults()
        return caller(call, bound.arguments)

    @functools.wraps(function)
    async def acall(*given: Any, **named: Any) -> Any:
        caller = tool_caller.get()
        if caller is None:
            return await function(*given, **named)
        bound = parameters.bind(*given, **named)
        bound.apply_defaults()
        return await caller(acall, bound.arguments)

    return cast("F", acall if inspect.iscoroutinefunction(function) else call)


def policy_of(function: Callable[..., Any]) -> ToolPolicy:
    """The policy that a function is marked with, or the one of plain functions."""
    found = getattr(function, _ATTRIBUTE, None) or getattr(inspect.unwrap(function), _ATTRIBUTE, None)
    return found if isinstance(found, ToolPolicy) else ToolPolicy()


#: Calls a marked function with these arguments as a tool of the program whose code is run.
tool_caller: ContextVar[Callable[[Callable[..., Any], Mapping[str, Any]], Any] | None] = ContextVar(
    "tool_caller", default=None
)
_key: ContextVar[str | None] = ContextVar("tool_call_key", default=None)


def idempotency_key() -> str:
    """A key that is the same for this call of a tool in every attempt: for the services that the tool asks.

    Raises RuntimeError outside of a tool that an execution calls.
    """
    key = _key.get()
    if key is None:
        raise RuntimeError("dspex.idempotency_key() is for the code of a tool that an execution calls")
    return key


@contextmanager
def key_of_call(key: str) -> Iterator[None]:
    """The key of the call that is made in this block, by the function itself."""
    token, through = _key.set(key), tool_caller.set(None)
    try:
        yield
    finally:
        tool_caller.reset(through)
        _key.reset(token)
