"""A call's hash names everything that determines the answer, and an answer survives its journal."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from dspy.clients.call_result import response_from_dict as dspy_response_from_dict
from dspy.clients.call_result import response_to_dict as dspy_response_to_dict
from dspy.clients.execution import request_to_dict as dspy_request_to_dict
from dspy.lm15 import request_from_openai_chat as dspy_request
from lm15 import Config, Message, Request, Response, Usage, request_from_openai_chat
from lm15.serde import request_to_dict, response_from_dict, response_to_dict

from workers.lm.cost import cost_usd, estimate, tokens
from workers.lm.model_catalogue import facts
from workers.lm.replay import request_hash

IMAGE = {"url": "https://host/cat.png"}
CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}
RATES = facts("openai", "gpt-4o-mini").rates
REQUEST = Request(model="openai/test", messages=(Message.user("Hi"),), config=Config(temperature=0.5, max_tokens=10))


def answer(model: str = "gpt-4o-mini", **usage: int) -> Response:
    return Response(
        id="chatcmpl-1",
        model=model,
        message=Message.assistant("Ümläut 🐈"),
        finish_reason="stop",
        usage=Usage(**usage),
        provider_data={"system_fingerprint": "fp"},
    )


@pytest.mark.parametrize(
    "other",
    [
        replace(REQUEST, model="openai/other"),
        replace(REQUEST, messages=(Message.user("Ho"),)),
        replace(REQUEST, system="Be brief."),
        replace(REQUEST, config=Config(temperature=0.6, max_tokens=10)),
        replace(REQUEST, config=Config(temperature=0.5, max_tokens=11)),
        replace(REQUEST, config=replace(REQUEST.config, response_format={"type": "json_object"})),
    ],
)
def test_another_request_has_another_hash(other: Request) -> None:
    assert hashed(other) != hashed(REQUEST)


def test_the_hash_names_the_declared_address() -> None:
    assert hashed(REQUEST) == hashed(replace(REQUEST))
    assert hashed(REQUEST, "http://a/v1") != hashed(REQUEST, "http://b/v1")
    assert len(hashed(REQUEST)) == 64


def test_an_answer_survives_its_journal() -> None:
    given = answer(input_tokens=7, output_tokens=3)
    kept = json.loads(json.dumps(response_to_dict(given)))
    assert response_from_dict(kept) == replace(given, provider_data=None)
    assert response_to_dict(response_from_dict(kept)) == kept


def test_dspys_copy_and_the_package_read_each_others_data() -> None:
    """DSPy pins an older lm15: what passes between the two must mean the same in both."""
    body = {
        "model": "openai/test",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": IMAGE}]},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "1", "content": "4"},
        ],
        "tools": [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
        "temperature": 0.5,
        "max_tokens": 10,
        "stop": ["END"],
    }
    assert dspy_request_to_dict(dspy_request(body)) == request_to_dict(request_from_openai_chat(body))
    kept = response_to_dict(answer(input_tokens=7, output_tokens=3))
    assert dspy_response_to_dict(dspy_response_from_dict(kept)) == kept


def test_cost_is_the_list_price_of_the_tokens() -> None:
    given = answer(input_tokens=1_000_000, output_tokens=1_000_000)
    assert tokens(given, "openai-chat") == (1_000_000, 1_000_000)
    cost = cost_usd(given, "openai-chat", RATES)
    assert cost is not None
    assert 0.5 < cost < 2  # $0.15 and $0.60 a million when DSPy 3.4.1 was published


@pytest.mark.parametrize(
    ("provider", "usage", "counted", "dollars"),
    [
        # OpenAI counts cached tokens in the prompt and reasoning in the completion; the others do not
        ("openai-chat", {"input_tokens": 100, "cache_read_tokens": 40, "output_tokens": 10}, (100, 10), 60 + 20 + 20),
        ("anthropic", {"input_tokens": 60, "cache_read_tokens": 40, "output_tokens": 10}, (100, 10), 60 + 20 + 20),
        ("openai-chat", {"input_tokens": 10, "output_tokens": 10, "reasoning_tokens": 4}, (10, 10), 10 + 12 + 12),
        ("gemini", {"input_tokens": 10, "output_tokens": 6, "reasoning_tokens": 4}, (10, 10), 10 + 12 + 12),
        ("gemini", {"input_tokens": 300_000, "output_tokens": 1}, (300_000, 1), 300_000 * 4 + 8),
    ],
)
def test_each_kind_of_token_has_its_price(
    provider: str, usage: dict[str, int], counted: tuple[int, int], dollars: float
) -> None:
    rates = {
        "input_cost_per_token": 1.0,
        "cache_read_input_token_cost": 0.5,
        "output_cost_per_token": 2.0,
        "output_cost_per_reasoning_token": 3.0,
        "input_cost_per_token_above_200k_tokens": 4.0,
        "output_cost_per_token_above_200k_tokens": 8.0,
    }
    given = answer("gpt-4o-mini", **usage)
    assert tokens(given, provider) == counted
    assert cost_usd(given, provider, rates) == dollars


def test_what_has_no_list_price_has_no_cost() -> None:
    assert facts("openai", "our-own").rates == {}
    assert cost_usd(answer("our-own", input_tokens=5, output_tokens=5), "openai-chat", {}) is None
    unreported = answer()
    assert tokens(unreported, "openai-chat") == (0, 0)
    assert cost_usd(unreported, "openai-chat", RATES) is None


def test_a_request_is_estimated_by_its_text_and_its_limit() -> None:
    request = request_to_dict(replace(REQUEST, messages=(Message.user("x" * 4000),)))
    expected, dollars = estimate(request, RATES)
    assert 1000 < expected < 1100
    assert dollars == pytest.approx(
        (expected - 10) * RATES["input_cost_per_token"] + 10 * RATES["output_cost_per_token"]
    )
    assert estimate(request, {}) == (expected, None)


@pytest.mark.parametrize(
    ("character", "most"), [("漢", 2), ("か", 2), ("한", 2), ("é", 1), ("я", 1), ("🐈", 2)], ids="漢か한éя🐈"
)
def test_a_character_that_is_not_ascii_is_estimated_as_a_token_or_more(character: str, most: int) -> None:
    def expected(text: str) -> int:
        return estimate(request_to_dict(replace(REQUEST, messages=(Message.user(text),))), {})[0]

    assert 4000 <= expected(character * 4000) - expected("") <= most * 4000
    assert expected("x" * 4000 + character * 1000) - expected("x" * 4000) >= 1000


def hashed(request: Request, address: str | None = None) -> str:
    return request_hash(request_to_dict(request), address)
