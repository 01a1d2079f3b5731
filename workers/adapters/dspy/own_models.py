"""Models whose calls are a program's own code: subclasses of ``dspy.BaseLM``, and engines of ``dspy.LM(engine=)``.

Their calls are journaled, limited and counted as calls of other models are. When their code asks another model of the
run, as one that chooses among models does, that call is journaled, and their own is not.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from dspy import lm15 as dspy_lm15
from dspy.clients import call_result, execution
from dspy.clients.backend_selection import CLIENT_KEYS
from dspy.clients.call_result import CallResult
from dspy.utils.dummies import DummyLM
from pydantic_core import to_jsonable_python

from dspex.program.models import OTHER_ENTRIES
from workers.adapters.contract import Answer, Estimate
from workers.adapters.dspy.engine_bridge import BlockingEngine, DspyEngine, HostedRun, events, give_way, gives_way
from workers.attempt.sync_threads import run_apart
from workers.lm.exchange import current_exchange

__all__ = ["own_engine"]

#: What is known of the use of a call before it is made.
_NOTHING_KNOWN = Estimate(tokens=0, cost_usd=0.0)


class AsksAnotherModel(Exception):
    """The code of a model asks another model of the run."""


@dataclass(frozen=True, slots=True)
class _Form:
    """How a result of the code is stored, and made again."""

    stored: Callable[[Any], Answer]
    made_again: Callable[[Mapping[str, Any]], Any]


class _OwnCall:
    """One call: its code runs in a task, while the journal waits for the answer."""

    def __init__(self, code: Callable[[], Awaitable[Any]], form: _Form) -> None:
        self._code = code
        self._form = form
        self._asks_another = asyncio.Event()
        self._left = asyncio.Event()
        self._task: asyncio.Task[Any] | None = None

    async def perform(self, perform: Callable[[Callable[[], Awaitable[Answer]]], Awaitable[dict[str, Any]]]) -> Any:
        """What the code returned, now or in an earlier attempt. Raises what the code raises."""
        try:
            stored = await perform(self._answer)
        except AsksAnotherModel:
            self._left.set()
            assert self._task is not None
            return await self._task
        finally:
            self._left.set()
        return self._form.made_again(stored) if self._task is None else self._task.result()

    async def _answer(self) -> Answer:
        """For the journal. Raises AsksAnotherModel."""
        self._task = asyncio.ensure_future(self._run())
        asks = asyncio.ensure_future(self._asks_another.wait())
        try:
            await asyncio.wait({self._task, asks}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._task.cancel()
            raise
        finally:
            asks.cancel()
        if self._asks_another.is_set():
            raise AsksAnotherModel
        return self._form.stored(self._task.result())

    async def _run(self) -> Any:
        gives_way.set(self._give_way)
        return await self._code()

    async def _give_way(self) -> None:
        """The code asks another model: the journal waits no longer, and the limits count that call instead."""
        self._asks_another.set()
        await self._left.wait()


class _OwnModelEngine:
    """A call of a model whose code is the program's, as DSPy has prepared it."""

    def __init__(self, hosted: HostedRun, lm: Any, call: Any, backend: Any) -> None:
        self._hosted = hosted
        self._lm = lm
        self._call = call
        self._backend = backend

    async def _answered(self, code: Callable[[], Awaitable[Any]], form: _Form) -> Any:
        await give_way()
        request = _request(self._lm, self._call)
        digest = _digest(self._lm, self._backend, request)
        if (exchange := current_exchange.get()) is not None:
            exchange.requests.append(digest)
        asked = partial(self._hosted.run.journal.perform, digest, _name(self._lm),
                        estimate=lambda: _NOTHING_KNOWN, request=request)  # fmt: skip
        return await self._hosted.asked(lambda: _OwnCall(code, form).perform(asked))


class OwnEngine(_OwnModelEngine):
    """The synchronous engine: the code runs in a thread of its own."""

    def complete_legacy(self, *given: Any, **named: Any) -> Any:
        return self._made(partial(self._backend.complete_legacy, *given, **named), _LEGACY)

    def complete(self, request: dspy_lm15.Request) -> Any:
        return self._made(partial(self._backend.complete, request), _CANONICAL)

    def stream(self, request: dspy_lm15.Request) -> Iterator[Any]:
        yield from events(self.complete(request))

    def _made(self, code: Callable[[], Any], form: _Form) -> Any:
        return self._hosted.loop.call(lambda: self._answered(lambda: run_apart(code), form))


class AsyncOwnEngine(_OwnModelEngine):
    """The asynchronous engine: the code runs on the loop that asks."""

    async def complete_legacy(self, *given: Any, **named: Any) -> Any:
        return await self._made(partial(self._backend.complete_legacy, *given, **named), _LEGACY)

    async def complete(self, request: dspy_lm15.Request) -> Any:
        return await self._made(partial(self._backend.complete, request), _CANONICAL)

    async def stream(self, request: dspy_lm15.Request) -> Any:
        for event in events(await self.complete(request)):
            yield event

    async def _made(self, code: Callable[[], Coroutine[Any, Any, Any]], form: _Form) -> Any:
        loop = asyncio.get_running_loop()

        async def on_its_loop() -> Any:
            if asyncio.get_running_loop() is loop:
                return await code()
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(code(), loop))

        return await self._hosted.loop.acall(lambda: self._answered(on_its_loop, form))


def own_engine(hosted: HostedRun, lm: Any, call: Any, backend: Any, *, asynchronous: bool) -> Any:
    """The engine of a model whose ``backend`` is not DSPy's; of the run's own models, and of DSPy's dummy, it is as it
    was."""
    if isinstance(backend, BlockingEngine | DspyEngine) or isinstance(lm, DummyLM):
        return backend
    return (AsyncOwnEngine if asynchronous else OwnEngine)(hosted, lm, call, backend)


def _stored_legacy(result: CallResult) -> Answer:
    content = _content(result)
    texts = [output.get("text") if isinstance(output, Mapping) else output for output in content["outputs"]]
    prompt_tokens, completion_tokens = (_count(content["usage"].get(f"{kind}_tokens")) for kind in _KINDS)
    cost = content["cost"] if isinstance(content["cost"], int | float) else None
    response = {"text": "\n".join(map(str, filter(None, texts))), "result": content}
    return Answer(response, prompt_tokens, completion_tokens, cost)


def _content(result: CallResult) -> dict[str, Any]:
    """The result as data; what the code returned, which may be an object of any class, is for histories only."""
    dumped = result.dump()
    try:
        return dict(_json_data(dumped, _plain))
    except (TypeError, ValueError, RecursionError):
        return dict(_json_data({**dumped, "raw": None}))


def _made_again_legacy(stored: Mapping[str, Any]) -> CallResult:
    result = CallResult.load(stored["result"])
    result.cache_hit, result.usage = False, stored["result"]["usage"]
    return result


def _stored_canonical(response: Any) -> Answer:
    if not isinstance(response, dspy_lm15.Response):
        raise TypeError(f"Engine.complete must return dspy.lm15.Response, got {type(response).__qualname__}")
    usage = response.usage
    return Answer(
        call_result.response_to_dict(response), _count(usage.input_tokens), _count(usage.output_tokens), cost_usd=None
    )


_KINDS = ("prompt", "completion")
_LEGACY = _Form(_stored_legacy, _made_again_legacy)
_CANONICAL = _Form(_stored_canonical, call_result.response_from_dict)


def _request(lm: Any, call: Any) -> dict[str, Any]:
    """The request as it is kept: without addresses and keys."""
    if call.request is not None:
        return dict(execution.request_to_dict(call.request))
    apart = {"messages", "model", *CLIENT_KEYS}  # addresses, keys and headers
    settings = {name: value for name, value in call.legacy.items() if name not in apart}
    return {
        "model": str(lm.model),
        "messages": [_message(each) for each in call.legacy["messages"]],
        "config": _json_data(settings),
    }


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    others = {name: value for name, value in message.items() if name != "content"}
    content = message.get("content")
    text = content if isinstance(content, str) else json.dumps(_json_data(content))
    return {**_json_data(others), "parts": [{"type": "text", "text": text}]}


def _digest(lm: Any, backend: Any, request: Mapping[str, Any]) -> str:
    """Names the call by its request and by what the model is: two of one class may differ in their texts."""
    texts = {name: value for name, value in vars(lm).items() if isinstance(value, str)}
    content = [_class(lm), _class(backend), texts, request]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()


def _json_data(value: Any, fallback: Callable[[Any], Any] = str) -> Any:
    return to_jsonable_python(value, fallback=fallback, inf_nan_mode="null")


def _class(value: Any) -> str:
    return f"{type(value).__module__}:{type(value).__qualname__}"


def _name(lm: Any) -> str:
    """What the journal calls the model."""
    name = str(lm.model)
    return _class(lm) if name.startswith(OTHER_ENTRIES) else name


def _count(tokens: Any) -> int:
    return tokens if type(tokens) is int and tokens >= 0 else 0


def _plain(value: Any) -> Any:
    """An answer's object, as of a provider's SDK."""
    return vars(value) if hasattr(value, "__dict__") else str(value)
