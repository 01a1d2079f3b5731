"""Tokens and cost of a model call: exact afterwards, estimated beforehand."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from lm15 import Response

__all__ = ["batch_rates", "cost_usd", "estimate", "is_usage_known", "tokens"]

#: Completion tokens expected of a request that does not limit them.
ASSUMED_COMPLETION_TOKENS = 1_000
_ASCII_PER_TOKEN = 4
_OTHER_BYTES_PER_TOKEN = 2
_MAX_COUNT = 2**31 - 1  # what the database can hold, whatever a server reports
_ABOVE = re.compile(r"_above_(\d+)k_tokens")
#: What the list appends to the name of a price through a batch API.
_BATCHES = "_batches"
_TIERS = {"priority": "_priority", "flex": "_flex"}
# lm15 keeps each provider's own counts. These count reasoning apart from the output:
_REASONING_APART = frozenset({"gemini", "vertex", "vertex-express", "xai"})


def tokens(response: Response, provider: str) -> tuple[int, int]:
    """Prompt and completion tokens, cached and reasoning ones among them; 0 for what was not reported."""
    prompt, completion = _totals(response, provider)
    return min(prompt or 0, _MAX_COUNT), min(completion or 0, _MAX_COUNT)


def is_usage_known(response: Response, provider: str) -> bool:
    """Whether the provider reported the tokens of the prompt and the answer."""
    return None not in _totals(response, provider)


def cost_usd(response: Response, provider: str, rates: Mapping[str, float]) -> float | None:
    """The price of this call in US dollars; ``None`` when the usage or one of its rates is not known."""
    usage = response.usage
    prompt, completion = _totals(response, provider)
    if not rates or prompt is None or completion is None:
        return None
    rate = _rate(rates, prompt, response)
    cached, written = usage.cache_read_tokens or 0, usage.cache_write_tokens or 0
    audio_in, audio_out = usage.input_audio_tokens or 0, usage.output_audio_tokens or 0
    reasoned = usage.reasoning_tokens or 0
    parts = [
        (prompt - cached - written - audio_in, rate("input_cost_per_token", "")),
        (cached, rate("cache_read_input_token_cost", "input_cost_per_token")),
        (written, rate("cache_creation_input_token_cost", "input_cost_per_token")),
        (audio_in, rate("input_cost_per_audio_token", "input_cost_per_token")),
        (completion - reasoned - audio_out, rate("output_cost_per_token", "")),
        (reasoned, rate("output_cost_per_reasoning_token", "output_cost_per_token")),
        (audio_out, rate("output_cost_per_audio_token", "output_cost_per_token")),
    ]
    if any(count < 0 or (count and price is None) for count, price in parts):
        return None
    return sum(count * price for count, price in parts if price is not None)


def batch_rates(rates: Mapping[str, float]) -> Mapping[str, float]:
    """The prices of a model through its provider's batch API: from the list, else half of the ordinary prices, as each
    provider documents."""
    ordinary = {name: price for name, price in rates.items() if not name.endswith(_BATCHES)}
    return {name: rates.get(name + _BATCHES, price / 2) for name, price in ordinary.items()}


def estimate(request: Mapping[str, Any], rates: Mapping[str, float]) -> tuple[int, float | None]:
    """About how many tokens a request (lm15's canonical form) will take, and US dollars; ``None``: no rate is known.

    Four ASCII characters make a token of the prompt, or two UTF-8 bytes of any other: a Chinese character counts as
    1.5 tokens. The completion is taken to be as long as ``max_tokens`` allows, or 1,000 tokens. So the estimate is
    rather too high.
    """
    config = request.get("config") or {}
    text = json.dumps({**request, "config": config.get("response_format")}, ensure_ascii=False)
    ascii = len(text.encode("ascii", "ignore"))
    others = len(text.encode(errors="surrogatepass")) - ascii
    prompt = ascii // _ASCII_PER_TOKEN + others // _OTHER_BYTES_PER_TOKEN + 1
    completion = config.get("max_tokens") or ASSUMED_COMPLETION_TOKENS
    per_prompt, per_completion = rates.get("input_cost_per_token"), rates.get("output_cost_per_token")
    if per_prompt is None or per_completion is None:
        return prompt + completion, None
    return prompt + completion, prompt * per_prompt + completion * per_completion


def _totals(response: Response, provider: str) -> tuple[int | None, int | None]:
    usage = response.usage
    prompt, completion = usage.input_tokens, usage.output_tokens
    if prompt is not None and "anthropic" in provider:  # counts cached input apart
        prompt += (usage.cache_read_tokens or 0) + (usage.cache_write_tokens or 0)
    if completion is not None and provider in _REASONING_APART:
        completion += usage.reasoning_tokens or 0
    return prompt, completion


def _rate(rates: Mapping[str, float], prompt: int, response: Response) -> Callable[[str, str], float | None]:
    """A function that looks up a rate by its name, or else by the ordinary token's, for this length of prompt and
    service tier. It never returns the rate of a cheaper tier."""
    raw = response.provider_data if isinstance(response.provider_data, Mapping) else {}
    tier = _TIERS.get(str(raw.get("service_tier")), "")
    limits = {int(found.group(1)) for name in rates if (found := _ABOVE.search(name))}
    passed = max((limit for limit in limits if prompt > limit * 1000), default=None)
    suffix = (f"_above_{passed}k_tokens" if passed else "") + tier

    def rate(name: str, ordinary: str) -> float | None:
        return rates.get(name + suffix, rates.get(ordinary + suffix))

    return rate
