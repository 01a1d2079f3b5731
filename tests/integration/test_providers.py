"""Every protocol that workers/lm speaks itself, on the wire: what is asked, what is read, how failures are told."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from dspex.errors import ModelError
from dspex.program.program import Program
from dspex.signatures import signature
from tests.model_server import ModelServer, Step, model_server
from tests.recording import MemoryJournal, a_run
from workers.adapters.dspy.dspy_adapter import DspyAdapter

__all__ = ["model_server"]

TRIAGE = signature(
    'signature triage "Route a support ticket": :string ticket -> :enum("billing", "bug") queue, :string summary'
)
TICKET = {"ticket": "The invoice is wrong."}
OUTPUTS = {"queue": "billing", "summary": "A wrong invoice."}
KEY = "a-key-of-the-program"


@dataclass(frozen=True)
class Provider:
    """``path`` is what the program's address adds to the server's; the rest says where in a request things stand."""

    model: str
    path: str
    system: str
    limit: str
    schema: str
    rate_limit: dict[str, Any]
    too_long: dict[str, Any]
    wire_model: str | None = "test"


OPENAI_ERRORS: dict[str, Any] = {
    "rate_limit": {"code": "rate_limit_exceeded"},
    "too_long": {"code": "context_length_exceeded"},
}
OPENAI_FORM: dict[str, Any] = {"system": "messages.0.content", "schema": "response_format.json_schema.schema"}
PROVIDERS = {
    "openai": Provider("openai/test", "", limit="max_tokens", **OPENAI_FORM, **OPENAI_ERRORS),
    "vllm": Provider("hosted_vllm/test", "/v1", limit="max_tokens", **OPENAI_FORM, **OPENAI_ERRORS),
    "ollama": Provider("ollama/test", "/v1/", limit="max_tokens", **OPENAI_FORM, **OPENAI_ERRORS),
    "azure": Provider("azure/test", "", limit="max_completion_tokens", **OPENAI_FORM, **OPENAI_ERRORS),
    "azure-deployment": Provider(
        "azure/test",
        "/openai/deployments/test?api-version=2024-10-21",
        limit="max_tokens",
        **OPENAI_FORM,
        **OPENAI_ERRORS,
    ),
    "anthropic": Provider(
        "anthropic/test",
        "",
        system="system",
        limit="max_tokens",
        schema="output_config.format.schema",
        rate_limit={},
        too_long={"message": "prompt is too long: 210000 tokens > 200000 maximum"},
    ),
    "gemini": Provider(
        "gemini/test",
        "",
        system="systemInstruction.parts.0.text",
        limit="generationConfig.maxOutputTokens",
        schema="generationConfig.responseJsonSchema",
        rate_limit={},
        too_long={"message": "The input token count (2000000) exceeds the maximum number of tokens allowed (1048576)."},
        wire_model=None,  # it stands in the path
    ),
}

every_provider = pytest.mark.parametrize("provider", PROVIDERS.values(), ids=PROVIDERS)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIAGE_KEY", KEY)


@pytest.fixture
async def adapter() -> AsyncIterator[DspyAdapter]:
    made = DspyAdapter()
    yield made
    await made.close()


@every_provider
async def test_what_is_asked_and_what_is_read(
    provider: Provider, model_server: ModelServer, adapter: DspyAdapter
) -> None:
    model_server.script(default=Step(outputs=OUTPUTS))
    journal = MemoryJournal()
    assert await adapter.execute(a_run(program(provider, model_server, prompt="compact"), TICKET, journal)) == OUTPUTS
    served = model_server.calls()
    (asked,) = served["requests"]
    assert asked.get("model") == provider.wire_model
    assert "Route a support ticket" in at(asked, provider.system)
    assert at(asked, provider.limit) == 200
    assert at(asked, provider.schema)["properties"]["queue"]["enum"] == ["billing", "bug"]
    assert served["keys"] == {KEY: 1}
    (answer,) = journal.answers
    assert (answer.prompt_tokens > 0, answer.completion_tokens > 0, answer.cost_usd) == (True, True, None)
    assert str(answer.request_id).startswith("req-")


@every_provider
async def test_an_answer_is_replayed(provider: Provider, model_server: ModelServer, adapter: DspyAdapter) -> None:
    of, journal = program(provider, model_server), MemoryJournal()
    outputs = await adapter.execute(a_run(of, TICKET, journal))
    assert await adapter.execute(a_run(of, TICKET, journal.recall(), attempt=2)) == outputs
    assert model_server.calls()["total"] == 1


@every_provider
async def test_a_rate_limit_says_when_to_come_back(
    provider: Provider, model_server: ModelServer, adapter: DspyAdapter
) -> None:
    model_server.script(default=Step(status=429, error=provider.rate_limit, retry_after=7))
    error = await failure(adapter, program(provider, model_server))
    assert (error.code, error.retryable, error.retry_after) == ("rate_limited", True, 7)
    assert str(error.details["request_id"]).startswith("req-")


@every_provider
@pytest.mark.parametrize(
    ("step", "code", "retryable"),
    [
        (Step(status=401), "authentication", False),
        (Step(status=400), "invalid_request", False),
        (Step(status=500), "provider_unavailable", True),
        (Step(status=503), "provider_unavailable", True),
        (Step(fault="malformed_json"), "provider_unavailable", True),
        (Step(fault="truncated_body"), "provider_unavailable", True),
        (Step(fault="reset"), "provider_unavailable", True),
        (Step(fault="content_filter"), "content_filtered", False),
        (Step(fault="length", content="[[ ## queue ## ]]\nbill"), "output_unparseable", False),
    ],
    ids=lambda value: None if isinstance(value, bool) else str(getattr(value, "fault", None) or value)[:30],
)
async def test_failures_of_all_providers_have_the_same_codes(
    provider: Provider, step: Step, code: str, retryable: bool, model_server: ModelServer, adapter: DspyAdapter
) -> None:
    model_server.script(default=step)
    error = await failure(adapter, program(provider, model_server))
    assert (error.code, error.retryable) == (code, retryable)
    assert TICKET["ticket"] not in str(error.as_dict())


@every_provider
async def test_a_prompt_that_is_too_long(provider: Provider, model_server: ModelServer, adapter: DspyAdapter) -> None:
    model_server.script(default=Step(status=400, error=provider.too_long))
    error = await failure(adapter, program(provider, model_server))
    assert (error.code, error.retryable) == ("context_window_exceeded", False)


async def test_anthropic_says_that_it_is_overloaded(model_server: ModelServer, adapter: DspyAdapter) -> None:
    model_server.script(default=Step(status=529))
    error = await failure(adapter, program(PROVIDERS["anthropic"], model_server))
    assert (error.code, error.retryable) == ("provider_unavailable", True)


async def test_azures_version_goes_with_every_request_and_not_into_errors(adapter: DspyAdapter) -> None:
    of = Program("p", TRIAGE, model="azure/gpt", api_base="http://127.0.0.1:9/openai/deployments/gpt?api-version=x")
    error = await failure(adapter, of)
    assert "at http://127.0.0.1:9/openai/deployments/gpt/chat/completions," in str(error)
    assert "api-version" not in str(error.as_dict())


@pytest.mark.parametrize("variable", ["OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "AZURE_OPENAI_API_KEY"])
async def test_the_workers_own_keys_are_not_sent_to_an_address(
    variable: str, model_server: ModelServer, adapter: DspyAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "the-workers-own")
    for provider in PROVIDERS.values():
        await adapter.execute(a_run(program(provider, model_server, api_key_env=None), TICKET))
    assert set(model_server.calls()["keys"]) == {"none"}


def program(provider: Provider, server: ModelServer, **changes: Any) -> Program:
    settings = {
        "model": provider.model,
        "api_base": server.url + provider.path,
        "api_key_env": "TRIAGE_KEY",
        "max_tokens": 200,
        **changes,
    }
    return Program("triage", TRIAGE, **settings)


async def failure(adapter: DspyAdapter, of: Program) -> ModelError:
    """How a run fails whose time is up, so that no call is made again."""
    with pytest.raises(ModelError) as caught:
        await adapter.execute(replace(a_run(of, TICKET), deadline=time.monotonic()))
    return caught.value


def at(data: Any, path: str) -> Any:
    for part in path.split("."):
        data = data[int(part) if part.isdigit() else part]
    return data
