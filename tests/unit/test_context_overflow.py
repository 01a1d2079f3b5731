"""Prompts that are too long for a model are recognised, in the words of each provider."""

from __future__ import annotations

from typing import Any

import pytest

from tests.raw_replies import RawReply, events, failure
from workers.attempt.fallback import may_fall_back
from workers.attempt.retry_policy import is_transient
from workers.lm.replies.context_overflow import CODES, TEXTS, OverflowText, is_context_overflow


@pytest.mark.case("http-02-context-overflow-llama-cpp")
@pytest.mark.case("http-03-context-overflow-vllm")
@pytest.mark.parametrize("text", TEXTS, ids=lambda text: f"{text.providers}: {text.pattern}"[:50])
async def test_every_providers_text_is_recognised(text: OverflowText) -> None:
    assert is_context_overflow(text.sample)
    for status, body in (
        (400, {"error": {"message": text.sample, "type": "BadRequestError", "param": None, "code": 400}}),
        (500, {"error": {"message": text.sample, "type": "server_error", "code": 500}}),
        (422, {"error": text.sample, "error_type": "validation"}),
        (429, {"error": {"message": text.sample, "type": "tokens", "code": "rate_limit_exceeded"}}),
        (200, {"object": "error", "message": text.sample, "code": 400}),
        (400, {"detail": text.sample}),
        (400, {"error": {"message": "Provider returned error", "metadata": {"raw": f'{{"error": "{text.sample}"}}'}}}),
        (400, text.sample),
    ):
        error = await failure(RawReply(body, status))
        assert error.code == "context_window_exceeded", (status, body)
        assert not is_transient(error)  # one request
        assert may_fall_back(error)
        assert text.sample not in str(error.as_dict())


@pytest.mark.parametrize(
    "provider",
    [
        "OpenAI",
        "Azure",
        "Anthropic",
        "Gemini",
        "llama.cpp",
        "vLLM",
        "SGLang",
        "TGI",
        "Ollama",
        "Groq",
        "Mistral",
        "DeepSeek",
        "together",
    ],
)
def test_the_table_has_a_text_and_a_source_of_each_provider(provider: str) -> None:
    texts = [text for text in TEXTS if provider in text.providers]
    assert texts
    assert all(text.source.startswith("https://") for text in texts)


@pytest.mark.parametrize("code", sorted(CODES))
async def test_codes_are_recognised(code: str) -> None:
    assert (await failure(RawReply({"error": {"message": "No.", "code": code}}, 400))).code == "context_window_exceeded"


@pytest.mark.parametrize("body", ["", "<html>Request Entity Too Large</html>", {"error": {"message": "too big"}}])
async def test_a_request_that_is_too_large_for_a_gateway_is_one(body: Any) -> None:
    assert (await failure(RawReply(body, 413))).code == "context_window_exceeded"


async def test_a_stream_may_begin_with_it() -> None:
    body = events({"error": {"message": TEXTS[0].sample, "code": 400}})
    assert (await failure(RawReply(body), streamed=True)).code == "context_window_exceeded"


@pytest.mark.parametrize("protocol", ["openai", "anthropic", "gemini"])
@pytest.mark.parametrize(
    ("body", "code"),
    [
        (
            {"error": {"message": "This request would exceed your rate limit of 40,000 input tokens per minute"}},
            "rate_limited",
        ),
        (
            {
                "error": {
                    "message": "Quota exceeded for metric input_token_count, limit: 250000, per minute",
                    "code": 429,
                }
            },
            "rate_limited",
        ),
        ({"error": {"message": "Too many tokens, please wait before trying again."}}, "rate_limited"),
    ],
)
async def test_limits_of_rate_speak_of_tokens_too(protocol: str, body: Any, code: str) -> None:
    error = await failure(RawReply(body, 429), protocol=protocol)
    assert (error.code, error.retryable) == (code, True)


async def test_the_prompt_in_an_error_is_not_searched() -> None:
    """Validation errors of some servers quote the request."""
    quoted = {"type": "missing", "loc": ["body"], "msg": "Field required", "input": {"messages": TEXTS[0].sample}}
    assert (await failure(RawReply({"detail": [quoted]}, 422))).code == "invalid_request"
