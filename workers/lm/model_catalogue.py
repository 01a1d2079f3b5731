"""Prices and abilities of models, from the packaged list.

The list is the snapshot that the dspy package carries (LiteLLM's, MIT licence). It is read as a file, so that dspy
need not be imported, and one entry at a time: the whole of it takes 13 MB. Nothing is fetched over the network.
"""

from __future__ import annotations

import gzip
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["ModelFacts", "facts"]

_RATE = re.compile(r"(input|output)_cost_per_|cache_(read|creation)_input_token_cost")
_PATH = ("clients", "model_metadata", "snapshot.json.gz")


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """``rates`` are US dollars per token by the list's own names; an ability that is not in the list is False."""

    rates: Mapping[str, float] = field(default_factory=dict)
    function_calling: bool = False
    reasoning: bool = False
    response_schema: bool = False


@lru_cache(maxsize=1024)
def facts(provider: str, model: str) -> ModelFacts:
    """The facts of a model by its provider's prefix (``openai``, ``gemini`` …) and the provider's own name for it.

    The first look at a model reads a file (15 ms): take it off the loop.
    """
    text = _packaged_list()
    entry = _entry(text, f"{provider}/{model}") or {}
    if not entry:
        bare = _entry(text, model) or {}
        entry = bare if bare.get("litellm_provider") == provider else {}
    return ModelFacts(
        rates={name: float(rate) for name, rate in entry.items() if _RATE.match(name) and _is_rate(rate)},
        function_calling=entry.get("supports_function_calling") is True,
        reasoning=entry.get("supports_reasoning") is True,
        response_schema=entry.get("supports_response_schema") is True,
    )


def _packaged_list() -> str:
    found = find_spec("dspy")
    if found is None or not found.submodule_search_locations:
        return ""
    return gzip.decompress(Path(found.submodule_search_locations[0], *_PATH).read_bytes()).decode()


def _entry(text: str, name: str) -> dict[str, Any] | None:
    """One entry of the list, which is a JSON object with one model a key, indented by four."""
    key = f"\n    {json.dumps(name)}: {{"
    at = text.find(key)
    if at < 0:
        return None
    entry: dict[str, Any] = json.JSONDecoder().raw_decode(text, at + len(key) - 1)[0]
    return entry


def _is_rate(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
