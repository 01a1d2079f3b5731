"""What a program says about its models: fallback, headers, models in states; and tools with limits of their own."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import dspy
import pytest

import dspex
from dspex.errors import ModelError
from tests.compat.memory import MemoryCalls, memory_run
from tests.compat.server import CompatServer
from tests.model_server import ModelServer, Step, model_server
from tests.recording import MemoryTrail
from workers.adapters.contract import Run
from workers.adapters.direct.direct_adapter import DirectAdapter
from workers.adapters.dspy.dspy_adapter import DspyAdapter

__all__ = ["model_server"]

QA = dspex.signature("question -> answer")
ASKED = {"question": "Where?"}
REFUSED = Step(status=401, error={"code": "invalid_api_key"})


@pytest.fixture(scope="module")
def gateway() -> Iterator[CompatServer]:
    with CompatServer() as running:
        yield running


@pytest.fixture
async def adapter(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DspyAdapter]:
    monkeypatch.setenv("DSPEX_PROGRAM_PACKAGES", "tests.integration")
    made = DspyAdapter()
    yield made
    await made.close()


def calls_of(run: Run) -> list[dict[str, Any]]:
    assert isinstance(run.trail, MemoryTrail)
    return [data for kind, data in run.trail.events if kind == "lm_call"]


def program(server: ModelServer, **settings: Any) -> dspex.Program:
    given = {"model": "openai/first", "temperature": 0.5, "fallback": [second(server)], "api_base": server.url}
    return dspex.Program("p", QA, **{**given, **settings})


def second(server: ModelServer, **settings: Any) -> dspex.Model:
    return dspex.Model("openai/second", api_base=server.url, **settings)


async def test_the_next_model_answers_for_one_that_is_out_of_reach(
    model_server: ModelServer, adapter: DspyAdapter
) -> None:
    model_server.script(REFUSED)
    other = second(model_server, max_tokens=50, options={"seed": 3})
    of = program(model_server, fallback=[other], model_options={"service_tier": "flex", "top_p": 0.9})
    calls = MemoryCalls()
    run, _ = memory_run(of, ASKED, calls)
    outputs = await adapter.execute(run)
    first, asked = model_server.calls()["requests"]
    assert (first["model"], first["service_tier"], asked["model"]) == ("first", "flex", "second")
    assert (asked["temperature"], asked["top_p"], asked["max_tokens"], asked["seed"]) == (0.5, 0.9, 50, 3)
    assert "service_tier" not in asked  # another provider's
    failed, answered = calls_of(run)
    assert (failed["model"], failed["error"]) == ("openai/first", "authentication")
    assert (answered["model"], answered["instead_of"], answered["because"]) == (
        "openai/second", "openai/first", "authentication",
    )  # fmt: skip

    again, journal = memory_run(of, ASKED, calls, attempt=2)  # the first model is in reach again, and is not asked
    assert await adapter.execute(again) == outputs
    assert (model_server.calls()["total"], journal.replayed) == (2, 1)
    assert calls_of(again)[0]["model"] == "openai/second"


CROWDED = Step(status=429, error={"code": "resource_unavailable", "message": "Resource Unavailable"})
BUSY = Step(status=503, error={"code": "UNAVAILABLE", "message": "The model is overloaded."})


def flex_run(server: ModelServer, model: str, **settings: Any) -> Run:
    of = dspex.Program("p", QA, model=model, api_base=server.url, route="flex", **settings)
    return replace(memory_run(of, ASKED)[0], route=of.calls_route)


@pytest.mark.parametrize(
    ("model", "tier", "short"), [("openai/test", "service_tier", CROWDED), ("gemini/test", "serviceTier", BUSY)]
)
async def test_the_standard_tier_is_asked_when_the_flex_tier_has_no_capacity(
    model_server: ModelServer, adapter: DspyAdapter, model: str, tier: str, short: Step
) -> None:
    run = flex_run(model_server, model)
    assert await adapter.execute(run)
    (asked,) = model_server.calls()["requests"]
    assert (asked[tier], calls_of(run)[0]["tier"]) == ("flex", "flex")

    model_server.script(short)
    run = flex_run(model_server, model)
    assert await adapter.execute(run)
    refused, asked = model_server.calls()["requests"][-2:]
    assert (refused[tier], tier in asked) == ("flex", False)
    (call,) = calls_of(run)
    assert (call["tier"], call["because"]) == (
        "standard",
        "rate_limited" if short is CROWDED else "provider_unavailable",
    )


async def test_limits_of_the_caller_are_no_want_of_capacity(model_server: ModelServer, adapter: DspyAdapter) -> None:
    model_server.script(Step(status=429, error={"code": "rate_limit_exceeded"}, times=3))
    with pytest.raises(ModelError) as refused:
        await adapter.execute(flex_run(model_server, "openai/test"))
    assert refused.value.code == "rate_limited"
    assert {asked["service_tier"] for asked in model_server.calls()["requests"]} == {"flex"}


async def test_a_program_may_wait_for_the_flex_tier(model_server: ModelServer, adapter: DspyAdapter) -> None:
    model_server.script(CROWDED)
    run = flex_run(model_server, "openai/test", otherwise="fail")
    assert await adapter.execute(run)
    assert [asked["service_tier"] for asked in model_server.calls()["requests"]] == ["flex", "flex"]


@pytest.mark.parametrize(
    ("first", "key"),
    [
        ({"api_key_env": "FIRST_KEY"}, "FIRST_KEY"),
        ({"api_base": None, "model": "openai/gpt-4o-mini"}, "OPENAI_API_KEY"),
        ({"model_options": {"extra_headers": {"X-Key": "${FIRST_KEY}"}}}, "FIRST_KEY"),
    ],
)
async def test_the_next_model_answers_where_the_key_of_the_first_is_missing(
    first: dict[str, Any], key: str, model_server: ModelServer, adapter: DspyAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(key, raising=False)
    of, calls = program(model_server, **first), MemoryCalls()
    run, _ = memory_run(of, ASKED, calls)
    outputs = await adapter.execute(run)
    assert [asked["model"] for asked in model_server.calls()["requests"]] == ["second"]
    failed, answered = calls_of(run)
    assert (failed["model"], failed["error"]) == (of.model, "authentication")
    assert (answered["instead_of"], answered["because"]) == (of.model, "authentication")

    monkeypatch.setenv(key, "key")  # for a later attempt, which finds the answer under the same request
    again, journal = memory_run(of, ASKED, calls, attempt=2)
    assert await adapter.execute(again) == outputs
    assert (model_server.calls()["total"], journal.replayed) == (1, 1)


async def test_a_model_without_a_key_and_without_another_model_fails_before_it_is_asked(
    model_server: ModelServer, adapter: DspyAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FIRST_KEY", raising=False)
    run, _ = memory_run(program(model_server, api_key_env="FIRST_KEY", fallback=()), ASKED)
    with pytest.raises(ModelError, match="FIRST_KEY") as refused:
        await adapter.execute(run)
    assert (refused.value.code, model_server.calls()["total"]) == ("authentication", 0)


async def test_a_request_that_is_at_fault_is_not_sent_to_another_model(
    model_server: ModelServer, adapter: DspyAdapter
) -> None:
    model_server.script(default=Step(status=400, error={"code": "bad"}))
    run, _ = memory_run(program(model_server), ASKED)
    with pytest.raises(ModelError) as refused:
        await adapter.execute(run)
    assert (refused.value.code, model_server.calls()["total"]) == ("invalid_request", 1)


class Listening(dspy.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.hear = dspy.Predict("call: dspy.Audio -> answer")

    def forward(self, call: dspy.Audio) -> dspy.Prediction:
        return self.hear(call=call)


async def test_audio_is_not_sent_to_a_model_that_would_not_hear_it(
    model_server: ModelServer, adapter: DspyAdapter
) -> None:
    model_server.script(default=REFUSED)
    listens = dspex.Program(
        "p", dspex.signature(":audio call -> :string answer"), module=f"{__name__}:Listening", model="openai/first",
        api_base=model_server.url, fallback=[dspex.Model("anthropic/claude", api_base=model_server.url)],
    )  # fmt: skip
    run, _ = memory_run(listens, {"call": {"data": "AAAA", "media_type": "audio/wav"}})
    with pytest.raises(ModelError, match="give a transcript as text") as refused:
        await adapter.execute(run)
    assert (refused.value.code, model_server.calls()["total"]) == ("unsupported", 1)


async def test_when_no_model_answers_another_attempt_may(model_server: ModelServer, adapter: DspyAdapter) -> None:
    model_server.script(Step(status=429, retry_after=60), default=REFUSED)
    run, _ = memory_run(program(model_server), ASKED)
    with pytest.raises(ModelError) as failed:
        await adapter.execute(run)
    assert (failed.value.code, failed.value.retryable) == ("rate_limited", True)
    assert [request["model"] for request in model_server.calls()["requests"]] == ["first", "second"]


async def test_the_direct_adapter_has_the_same_models(model_server: ModelServer) -> None:
    direct = DirectAdapter()
    model_server.script(REFUSED)
    run, _ = memory_run(program(model_server, adapter="direct", model_options={"seed": 1}), ASKED)
    assert (await direct.execute(run))["answer"]
    first, asked = model_server.calls()["requests"]
    assert (first["seed"], asked["model"], asked["seed"]) == (1, "second", 1)
    await direct.close()


async def test_a_secret_in_a_header_comes_from_the_environment(
    gateway: CompatServer, adapter: DspyAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of(text: str) -> dspex.Program:
        options = {"extra_headers": {"X-Title": text}}
        return dspex.Program("p", QA, model="openai/test", api_base=gateway.url, model_options=options)

    monkeypatch.setenv("GATEWAY_TOKEN", "t0ken")
    gateway.begin({}, [])
    await adapter.execute(memory_run(of("Bearer ${GATEWAY_TOKEN}"), ASKED)[0])
    assert gateway.requests()[0]["title"] == "Bearer t0ken"
    for text in ("${NOT_THERE}", "${DSPEX_DATABASE_URL}"):
        with pytest.raises(ModelError) as refused:
            await adapter.execute(memory_run(of(text), ASKED)[0])
        assert refused.value.code == "authentication"
        assert "in a header" in str(refused.value)


async def test_a_state_keeps_the_model_that_the_program_has(model_server: ModelServer, adapter: DspyAdapter) -> None:
    optimised = dspy.Predict("question -> answer")
    for named, asked in (("openai/second", "second"), ("openai/first", "first"), ("openai/other", "first")):
        optimised.set_lm(dspy.LM(named))
        state = json.loads(json.dumps(optimised.dump_state()))
        of = program(model_server, fallback=(), state=state, models={"judge": second(model_server)})
        await adapter.execute(memory_run(of, ASKED)[0])
        assert model_server.calls()["requests"][-1]["model"] == asked


RELEASED = threading.Event()


@dspex.tool(timeout=0.05)
def slow(question: str) -> str:
    """Takes long."""
    RELEASED.wait(30)
    return "too late"


class Awaiting(dspy.Module):  # type: ignore[misc]
    async def aforward(self, question: str) -> str:
        return await _observed(dspy.Tool(slow).acall(question=question))


class Calling(dspy.Module):  # type: ignore[misc]
    def forward(self, question: str) -> str:
        try:
            return str(dspy.Tool(slow)(question=question))
        except TimeoutError as error:
            return str(error)


async def _observed(call: Any) -> str:
    try:
        return str(await call)
    except TimeoutError as error:
        return str(error)


@pytest.mark.parametrize("module", ["Awaiting", "Calling"])
async def test_a_tool_has_the_time_that_it_says(module: str, model_server: ModelServer, adapter: DspyAdapter) -> None:
    RELEASED.clear()
    of = program(model_server, module=f"{__name__}:{module}")
    run, _ = memory_run(of, ASKED)
    try:
        assert (await adapter.execute(run))["answer"] == "no result within 0.05 s"
    finally:
        RELEASED.set()
    assert isinstance(run.trail, MemoryTrail)
    assert [data["ok"] for kind, data in run.trail.events if kind == "tool_call"] == [False]


class Seen:
    """What a follower of a run sees."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.fields: dict[str, Any] = {}

    def answer(self) -> Seen:
        self.texts, self.fields = {}, {}
        return self

    def text(self, field: str, more: str) -> None:
        self.texts[field] = self.texts.get(field, "") + more

    def field(self, name: str, value: Any) -> None:
        self.fields[name] = value


async def test_a_module_of_ones_own_streams_the_outputs_of_its_last_step(
    gateway: CompatServer, adapter: DspyAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSPEX_PROGRAM_PACKAGES", "tests.compat")
    of = dspex.Program(
        "p", QA, module="tests.compat.patterns.composition:Pipeline", model="openai/test", api_base=gateway.url
    )
    gateway.begin({}, [])
    seen = Seen()
    outputs = await adapter.execute(replace(memory_run(of, ASKED)[0], stream=seen))
    assert seen.texts == seen.fields == dict(outputs)


OWN_OPTIONS = {"min_p": 0.05, "chat_template_kwargs": {"enable_thinking": False}, "extra_body": {"guided_regex": "a+"}}
IN_THE_REQUEST = {"min_p": 0.05, "chat_template_kwargs": {"enable_thinking": False}, "guided_regex": "a+"}


@pytest.mark.parametrize("adapter_of", [DspyAdapter, DirectAdapter])
async def test_options_of_a_server_of_its_own_reach_it(
    model_server: ModelServer, adapter_of: type[DspyAdapter | DirectAdapter]
) -> None:
    name = "dspy" if adapter_of is DspyAdapter else "direct"
    options = {**OWN_OPTIONS, "seed": 3, "drop_params": True, "timeout": 20}
    of = dspex.Program("p", QA, model="openai/x", api_base=model_server.url, adapter=name, model_options=options)
    hosting = adapter_of()
    await hosting.execute(memory_run(of, ASKED)[0])
    await hosting.close()
    (asked,) = model_server.calls()["requests"]
    assert {key: asked[key] for key in (*IN_THE_REQUEST, "seed")} == {**IN_THE_REQUEST, "seed": 3}
    assert not {"drop_params", "extra_body", "timeout"} & set(asked)


class OwnOptions(dspy.Module):  # type: ignore[misc]
    """Asks one model with options in a call, and one of its own with options."""

    def forward(self, question: str) -> Any:
        with dspy.context(lm=dspy.LM("openai/x", api_base=os.environ["OWN_SERVER"], cache=False, **OWN_OPTIONS)):
            dspy.Predict("question -> hint")(question=question)
        return dspy.Predict("question -> answer")(question=question, config={**OWN_OPTIONS, "timeout": 5})


class OtherConnection(dspy.Module):  # type: ignore[misc]
    """Asks with what cannot be kept; ``options`` are of the call, or of a model of its own."""

    def __init__(self, of_the_call: bool, options: dict[str, Any]) -> None:
        super().__init__()
        self.of_the_call, self.options = of_the_call, options

    def forward(self, question: str) -> Any:
        if self.of_the_call:
            return dspy.Predict("question -> answer")(question=question, config=self.options)
        with dspy.context(lm=dspy.LM("openai/x", cache=False, **self.options)):
            return dspy.Predict("question -> answer")(question=question)


async def test_options_that_the_code_of_a_program_gives_reach_the_server(
    model_server: ModelServer, adapter: DspyAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OWN_SERVER", model_server.url)
    of = dspex.Program("p", QA, model="openai/x", api_base=model_server.url, module=f"{__name__}:OwnOptions")
    await adapter.execute(memory_run(of, ASKED)[0])
    requests = model_server.calls()["requests"]
    assert len(requests) == 2
    for asked in requests:
        assert {key: asked[key] for key in IN_THE_REQUEST} == IN_THE_REQUEST


@pytest.mark.parametrize(
    ("of_the_call", "options", "code", "named"),
    [
        (True, {"extra_headers": {"X-Title": "t"}}, "model_not_allowed", "extra_headers"),
        (True, {"organization": "org-1"}, "model_not_allowed", "organization"),
        (True, {"modalities": ["audio"]}, "invalid_request", "modalities"),
        (True, {"extra_body": {"model": "dearer"}}, "invalid_request", "extra_body['model']"),
        (False, {"model_type": "text"}, "model_not_allowed", "model_type"),
        (False, {"fallbacks": ["openai/y"]}, "invalid_request", "fallbacks"),
    ],
)
async def test_what_a_request_cannot_keep_is_named_before_anything_is_asked(
    model_server: ModelServer, adapter: DspyAdapter, of_the_call: bool, options: dict[str, Any], code: str, named: str
) -> None:
    of = dspex.Program("p", QA, model="openai/x", api_base=model_server.url, module=f"{__name__}:OtherConnection",
                       module_options={"of_the_call": of_the_call, "options": options})  # fmt: skip
    with pytest.raises(ModelError, match=re.escape(named)) as refused:
        await adapter.execute(memory_run(of, ASKED)[0])
    assert (refused.value.code, refused.value.retryable) == (code, False)
    assert model_server.calls()["total"] == 0
