"""What a model call used and what it cost."""

from __future__ import annotations

import asyncio
import os
from functools import lru_cache

from dspy.clients import model_metadata
from dspy.clients.call_result import usage_dict
from dspy.clients.costs import estimate_cost
from dspy.lm15 import Request, Response

__all__ = ["cost_usd", "load_prices", "tokens", "use_packaged_prices"]


def use_packaged_prices() -> None:
    """Make DSPy read the prices in its package instead of fetching a list over the network on first use."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")


async def load_prices() -> None:
    """Read the price list once, off the loop."""
    use_packaged_prices()
    await asyncio.to_thread(model_metadata.source_info)


def tokens(response: Response, provider: str) -> tuple[int, int]:
    """Prompt and completion tokens as the provider counted them; 0 for what it did not report."""
    usage = usage_dict(response, provider)
    return _counted(usage.get("prompt_tokens")), _counted(usage.get("completion_tokens"))


def cost_usd(response: Response, request: Request, *, provider: str, model: str) -> float | None:
    """The price of this call in US dollars by DSPy's packaged list; ``None`` when it is not known."""
    if not _is_priced(provider, response.model) and not _is_priced(provider, model):
        return None
    amount, _ = estimate_cost(response, provider=provider, requested_model=model, request=request)
    return None if amount is None else float(amount)


def _counted(value: float | None) -> int:
    """A count as the database can hold it, whatever a server reports."""
    return min(max(int(value or 0), 0), 2**31 - 1)


@lru_cache(maxsize=1024)
def _is_priced(provider: str, model: str) -> bool:
    """Whether the list knows the model: a miss scans all of it (2.5 to 4 ms), so it is looked up once."""
    use_packaged_prices()
    return "input_cost_per_token" in model_metadata.model_info(provider, model)
