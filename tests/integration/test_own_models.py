"""Models whose calls are the program's own code: their calls are journaled, limited and counted, too."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import dspy
import pytest

import dspex
from dspex.errors import DspexError
from tests.compat.memory import MemoryCalls, memory_run
from tests.compat.server import CompatServer
from tests.recording import MemoryTrail
from workers.adapters.contract import Run
from workers.adapters.dspy import dspy_hooks
from workers.adapters.dspy.dspy_adapter import DspyAdapter
from workers.lm.journal import AttemptJournal
from workers.lm.limits.budget import PermittedCall
from workers.lm.model_calls import ModelCalls

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

ASKED = {"question": "Where?"}
#: The texts of the messages that the models of these tests were asked.
MADE: list[str] = []


def completion(messages: Any) -> Any:
    MADE.append(json.dumps(messages, default=str))
    message = SimpleNamespace(content=f"[[ ## answer ## ]]\nanswer {len(MADE)}\n\n[[ ## completed ## ]]")
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    return SimpleNamespace(choices=[SimpleNamespace(message=message)], usage=usage, model="own",
                           _hidden_params={"response_cost": 0.25})  # fmt: skip


class OwnModel(dspy.BaseLM):  # type: ignore[misc]
    def forward(self, prompt: Any = None, messages: Any = None, **_: Any) -> Any:
        return completion(messages)

    async def aforward(self, prompt: Any = None, messages: Any = None, **_: Any) -> Any:
        await asyncio.sleep(0)
        return completion(messages)


class Engine:
    def complete(self, request: dspy.lm15.Request) -> dspy.lm15.Response:
        text = completion(request.messages[-1].text).choices[0].message.content
        usage = dspy.lm15.Usage(input_tokens=7, output_tokens=3)
        return dspy.lm15.Response(id=None, model="own", message=dspy.lm15.Message.assistant(text), finish_reason="stop",
                                  usage=usage)  # fmt: skip


class AsyncEngine(Engine):
    async def complete(self, request: dspy.lm15.Request) -> dspy.lm15.Response:
        return super().complete(request)


class Choosing(dspy.BaseLM):  # type: ignore[misc]
    """Passes its requests on to another model."""

    def forward(self, prompt: Any = None, messages: Any = None, **options: Any) -> Any:
        inner = dspy.LM("openai/inner", api_base=os.environ["OWN_API_BASE"], cache=False)
        return inner.forward(prompt=prompt, messages=messages, **options)


class Failing(dspy.BaseLM):  # type: ignore[misc]
    def forward(self, prompt: Any = None, messages: Any = None, **_: Any) -> Any:
        raise LookupError("nothing")


def own() -> Any:
    return OwnModel("house/own", api_key="not-a-key-to-keep")


def with_engine() -> Any:
    return dspy.LM("openai/own", engine=Engine(), async_engine=AsyncEngine(), cache=False)


class Asking(dspy.Module):  # type: ignore[misc]
    """Two calls, one after the other."""

    make: Callable[[], Any] = staticmethod(own)

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("question -> answer")

    def forward(self, question: str) -> Any:
        with dspy.context(lm=self.make()):
            return self.ask(question=self.ask(question=question).answer)


class Awaiting(Asking):
    async def aforward(self, question: str) -> Any:
        with dspy.context(lm=self.make()):
            first = await self.ask.acall(question=question)
            return await self.ask.acall(question=first.answer)


class Blocking(Asking):
    async def aforward(self, question: str) -> Any:
        return self.forward(question)


class OnALoopOfItsOwn(Asking):
    def forward(self, question: str) -> Any:
        return asyncio.run(Awaiting.aforward(self, question))


class AskingEngine(Asking):
    make = staticmethod(with_engine)


class AwaitingEngine(Awaiting):
    make = staticmethod(with_engine)


class AskingChoosing(Asking):
    make = staticmethod(lambda: Choosing("house/choosing"))


class AskingFailing(Asking):
    make = staticmethod(lambda: Failing("house/failing"))


class Embedding(dspy.Module):  # type: ignore[misc]
    def forward(self, question: str) -> str:
        embedder = dspy.Embedder("openai/embedding", caching=False)
        return str(len(embedder([question, question])))


@pytest.fixture(scope="module")
def server() -> Iterator[CompatServer]:
    with CompatServer() as running:
        yield running


@pytest.fixture
async def adapter(monkeypatch: pytest.MonkeyPatch, server: CompatServer) -> AsyncIterator[DspyAdapter]:
    monkeypatch.setenv("DSPEX_PROGRAM_PACKAGES", "tests.integration")
    monkeypatch.setenv("OWN_API_BASE", server.url)
    MADE.clear()
    server.begin({}, [])
    made = DspyAdapter()
    yield made
    await made.close()


def program(server: CompatServer, module: str) -> dspex.Program:
    return dspex.Program(
        "p", dspex.signature("question -> answer"), module=f"{__name__}:{module}", model="openai/test",
        api_base=server.url,
    )  # fmt: skip


@pytest.mark.parametrize(
    "module", ["Asking", "Awaiting", "Blocking", "OnALoopOfItsOwn", "AskingEngine", "AwaitingEngine"]
)
async def test_a_later_attempt_replays_what_own_models_answered(
    module: str, server: CompatServer, adapter: DspyAdapter
) -> None:
    calls = MemoryCalls()
    run, journal = memory_run(program(server, module), ASKED, calls)
    outputs = await adapter.execute(run)
    assert (outputs["answer"], len(MADE)) == ("answer 2", 2)
    assert (journal.totals()["lm_calls"], journal.totals()["prompt_tokens"]) == (2, 14)
    assert isinstance(run.trail, MemoryTrail)
    assert [kind for kind, _ in run.trail.events].count("lm_call") == 2

    again, journal = memory_run(program(server, module), ASKED, calls, attempt=2)
    assert await adapter.execute(again) == outputs
    assert (len(MADE), journal.replayed, server.requests()) == (2, 2, [])

    del calls.calls[1:]  # the attempt was killed in the second call
    partly, _ = memory_run(program(server, module), ASKED, calls, attempt=2)
    await adapter.execute(partly)
    assert len(MADE) == 3


async def test_requests_to_own_models_are_kept_without_keys(server: CompatServer, adapter: DspyAdapter) -> None:
    calls, trail = MemoryCalls(), MemoryTrail()
    run, _ = memory_run(program(server, "Asking"), ASKED, calls)
    journal = AttemptJournal(run.execution_id, 1, calls)
    await adapter.execute(replace(run, journal=ModelCalls(journal, trail, keeps_requests=True)))
    first = calls.calls[0]
    assert (first.model, first.cost_usd) == ("house/own", 0.25)
    asked = json.loads(first.request or "")
    assert "Where?" in asked["messages"][-1]["parts"][0]["text"]
    assert "not-a-key-to-keep" not in str(first)
    assert "answer 1" in json.loads(first.response)["text"]


class OneAtATime:
    """A limit of one call at a time."""

    def __init__(self) -> None:
        self.permitted: list[str] = []
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def permit(self, model: str, estimate: Any) -> AsyncIterator[PermittedCall]:
        async with self._lock:
            self.permitted.append(model)
            yield PermittedCall()


async def test_a_model_that_passes_its_requests_on_is_not_counted_twice(
    server: CompatServer, adapter: DspyAdapter
) -> None:
    def attempt(number: int) -> tuple[Run, AttemptJournal]:
        run, _ = memory_run(program(server, "AskingChoosing"), ASKED, calls, number)
        journal = AttemptJournal(run.execution_id, number, calls)
        journal.recall(calls.calls)
        return replace(run, journal=ModelCalls(journal, run.trail, limits=limits)), journal  # type: ignore[arg-type]

    calls, limits = MemoryCalls(), OneAtATime()
    run, journal = attempt(1)
    async with asyncio.timeout(60):
        outputs = await adapter.execute(run)
    assert [call.model for call in calls.calls] == ["openai/inner"] * 2
    assert (len(server.requests()), journal.totals()["lm_calls"]) == (2, 2)
    assert limits.permitted == ["house/choosing", "openai/inner"] * 2

    again, journal = attempt(2)
    assert await adapter.execute(again) == outputs
    assert (len(server.requests()), journal.replayed) == (2, 2)


async def test_what_the_code_of_a_model_raises_is_the_programs_error(
    server: CompatServer, adapter: DspyAdapter
) -> None:
    run, journal = memory_run(program(server, "AskingFailing"), ASKED)
    with pytest.raises(DspexError, match=r"raised LookupError at test_own_models\.py:") as failed:
        await adapter.execute(run)
    assert (failed.value.code, journal.totals()["lm_calls"]) == ("program_error", 0)


async def test_an_embedder_that_asks_a_provider_is_named_once(
    server: CompatServer, adapter: DspyAdapter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def embed(input: list[str], **_: Any) -> Any:
        return SimpleNamespace(data=[{"embedding": [0.0]} for _ in input])

    monkeypatch.setattr(dspy_hooks, "_get_litellm", lambda: SimpleNamespace(cache=None, embedding=embed))
    for _ in range(2):
        assert await adapter.execute(memory_run(program(server, "Embedding"), ASKED)[0]) == {"answer": "2"}
    assert caplog.text.count("dspy.Embedder") == 1
