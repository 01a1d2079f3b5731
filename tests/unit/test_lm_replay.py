"""A call's hash names everything that determines the answer, and an answer survives its journal."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from dspy.lm15 import Config, Message, Request, Response, Usage

from workers.lm.cost import cost_usd, tokens
from workers.lm.replay import request_hash, response_from_dict, response_to_dict

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
    assert request_hash(other, None) != request_hash(REQUEST, None)


def test_the_hash_names_the_declared_address() -> None:
    assert request_hash(REQUEST, None) == request_hash(replace(REQUEST), None)
    assert request_hash(REQUEST, "http://a/v1") != request_hash(REQUEST, "http://b/v1")
    assert len(request_hash(REQUEST, None)) == 64


def test_an_answer_survives_its_journal() -> None:
    given = answer(input_tokens=7, output_tokens=3)
    kept = json.loads(json.dumps(response_to_dict(given)))
    assert response_from_dict(kept) == replace(given, provider_data=None)
    assert response_to_dict(response_from_dict(kept)) == kept


def test_cost_is_the_list_price_of_the_tokens() -> None:
    given = answer(input_tokens=1_000_000, output_tokens=1_000_000)
    assert tokens(given, "openai-chat") == (1_000_000, 1_000_000)
    cost = cost_usd(given, REQUEST, provider="openai-chat", model="gpt-4o-mini")
    assert cost is not None
    assert 0.5 < cost < 2  # $0.15 and $0.60 a million when DSPy 3.4.1 was published


def test_what_has_no_list_price_has_no_cost() -> None:
    given = answer("our-own", input_tokens=5, output_tokens=5)
    assert cost_usd(given, REQUEST, provider="openai-chat", model="our-own") is None
    unreported = answer()
    assert tokens(unreported, "openai-chat") == (0, 0)
    assert cost_usd(unreported, REQUEST, provider="openai-chat", model="gpt-4o-mini") is None
