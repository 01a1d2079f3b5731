"""Replies as exact bytes to the adapters: calls that are made again, other adapters, simpler schemas, and the audit."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from dspex.errors import DspexError, ModelError
from dspex.program.program import Program
from dspex.signatures import signature
from tests.model_server import ModelServer, Step, model_server
from tests.raw_replies import chat, events
from tests.recording import MemoryJournal, a_run
from workers.adapters.direct.direct_adapter import DirectAdapter
from workers.adapters.dspy.dspy_adapter import DspyAdapter
from workers.attempt.fallback import may_fall_back

__all__ = ["model_server"]

GOOD = json.dumps({"tags": ["a"]})
UNKNOWN_KEYWORD = 'Grammar error: Unimplemented keys: ["uniqueItems"]'
TOO_LONG = "request (30031 tokens) exceeds the available context size (4096 tokens), try increasing it"


@pytest.fixture(params=["dspy", "direct"])
async def adapter(request: pytest.FixtureRequest) -> AsyncIterator[DspyAdapter | DirectAdapter]:
    made = DspyAdapter() if request.param == "dspy" else DirectAdapter()
    yield made
    await made.close()


def program(server: ModelServer, **changes: Any) -> Program:
    settings = {"model": "openai/test", "api_base": server.url, "prompt": "compact", **changes}
    return Program("tag", signature(":string text -> :list(:string, unique=true) tags"), **settings)


async def outputs(adapter: Any, of: Program, journal: MemoryJournal | None = None) -> Mapping[str, Any]:
    found: Mapping[str, Any] = await adapter.execute(a_run(of, {"text": "?"}, journal))
    return found


async def failure(adapter: Any, of: Program) -> DspexError:
    with pytest.raises(ModelError) as caught:
        await outputs(adapter, of)
    return caught.value


def raw(body: Any, **more: Any) -> Step:
    return Step(body=body if isinstance(body, str) else json.dumps(body), **more)


@pytest.mark.case("http-01-error-text-with-200")
@pytest.mark.case("lm-12-finish-reason-abort-or-error")
async def test_what_is_no_answer_is_asked_for_again(adapter: Any, model_server: ModelServer) -> None:
    model_server.script(
        raw({"error": {"message": "busy", "code": 503}}),
        raw(chat('{"tags": ["ha', "abort")),
        raw(chat(GOOD, usage={"prompt_tokens": "many"})),
    )
    journal = MemoryJournal()
    assert await outputs(adapter, program(model_server), journal) == {"tags": ["a"]}
    assert model_server.calls()["total"] == 3
    (answer,) = journal.answers
    assert (answer.notes, answer.cost_usd) == ({"usage": "unknown"}, None)


async def test_a_compressed_reply_is_read(adapter: Any, model_server: ModelServer) -> None:
    body = gzip.compress(b"\xef\xbb\xbf" + json.dumps(chat(GOOD)).encode()).decode(errors="surrogateescape")
    model_server.script(default=Step(body=body, headers={"Content-Encoding": "gzip"}))
    assert await outputs(adapter, program(model_server)) == {"tags": ["a"]}


@pytest.mark.case("http-02-context-overflow-llama-cpp")
@pytest.mark.parametrize("status", [400, 500])
async def test_a_prompt_that_is_too_long_is_sent_once(adapter: Any, model_server: ModelServer, status: int) -> None:
    model_server.script(default=raw({"error": {"message": TOO_LONG, "code": status}}, status=status))
    error = await failure(adapter, program(model_server))
    assert (error.code, error.retryable, may_fall_back(error)) == ("context_window_exceeded", False, True)
    assert model_server.calls()["total"] == 1
    assert f"at {model_server.url}/v1/chat/completions" in str(error)


@pytest.mark.case("http-05-schema-keyword-unknown-to-vllm")
@pytest.mark.parametrize("status", [400, 500])
async def test_a_schema_with_an_unknown_keyword_is_reduced_once(
    adapter: Any, model_server: ModelServer, status: int
) -> None:
    refused = raw({"error": {"message": UNKNOWN_KEYWORD}}, status=status, match="uniqueItems", times=1)
    model_server.script(refused, default=raw(chat(GOOD)))
    journal = MemoryJournal()
    assert await outputs(adapter, program(model_server), journal) == {"tags": ["a"]}
    first, second = (request["response_format"] for request in model_server.calls()["requests"])
    assert first["json_schema"]["schema"]["properties"]["tags"]["uniqueItems"] is True
    assert "uniqueItems" not in json.dumps(second)
    assert "uniqueItems" in json.dumps(model_server.calls()["requests"][1]["messages"])
    assert journal.answers[0].notes == {"schema": "reduced"}
    journal = MemoryJournal()  # the next execution does not ask for it again
    assert await outputs(adapter, program(model_server), journal) == {"tags": ["a"]}
    assert model_server.calls()["total"] == 3
    assert journal.answers[0].notes == {"schema": "reduced"}
    model_server.script(default=replace(refused, times=9, match=None))
    error = await failure(adapter, program(model_server))
    assert (error.code, error.retryable, may_fall_back(error)) == ("invalid_request", False, True)
    assert model_server.calls()["total"] == 4


@pytest.mark.case("http-11-key-with-line-break")
async def test_keys_are_stripped_and_refused_before_any_request(
    adapter: Any, model_server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_server.script(default=raw(chat(GOOD)))
    of = program(model_server, api_key_env="TAG_KEY")
    for given in ("sk-abc\n", " sk-abc ", "\tsk-abc\r\n"):
        monkeypatch.setenv("TAG_KEY", given)
        await outputs(adapter, of)
    assert model_server.calls()["keys"] == {"sk-abc": 3}
    for given in ("sk-\nabc", "“sk-abc”", "  ", "sk-äbc"):
        monkeypatch.setenv("TAG_KEY", given)
        error = await failure(adapter, of)
        assert (error.code, error.retryable) == ("authentication", False)
        assert "TAG_KEY" in str(error)
        assert "abc" not in str(error.as_dict())
    assert model_server.calls()["total"] == 3
    monkeypatch.setenv("TAG_KEY", "sk-abc")
    model_server.script(default=Step(status=401))
    assert "environment variable: TAG_KEY" in str(await failure(adapter, of))


@pytest.mark.case("http-06-retry-after-date")
async def test_a_setting_bounds_how_long_a_provider_may_ask_to_wait(
    model_server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSPEX_MAX_RETRY_AFTER_SECONDS", "600")
    adapter = DirectAdapter()
    moment = str(int(time.time()) + 10**7)
    model_server.script(default=raw({"error": "slow down"}, status=429, headers={"Retry-After": moment}))
    error = await failure(adapter, program(model_server))
    await adapter.close()
    assert isinstance(error, ModelError)
    assert (error.code, error.retry_after) == ("rate_limited", 600)
    assert error.details["retry_after_asked"] > 9_000_000
    assert "asked for seconds" in str(error)
    assert model_server.calls()["total"] == 1


@pytest.mark.case("http-12-full-endpoint-as-api-base")
async def test_an_error_names_the_url_that_was_asked(adapter: Any, model_server: ModelServer) -> None:
    of = program(model_server, api_base=f"{model_server.url}/wrong?key=1", model="openai/test")
    error = await failure(adapter, of)
    assert (error.code, error.retryable) == ("invalid_request", False)
    assert f"at {model_server.url}/wrong/chat/completions, HTTP 404" in str(error)


def test_events_are_exact() -> None:
    assert events({"a": 1}, ": ping\n\n") == 'data: {"a": 1}\n\n: ping\n\ndata: [DONE]\n\n'
