"""The engine of a run: its program's model, and behind it the models of the program's ``fallback``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from dspex.errors import ModelError
from dspex.program.models import Model
from workers.adapters.contract import Run
from workers.attempt.retry_policy import OUT_OF_REACH
from workers.lm.connect.endpoint import Endpoint, Endpoints
from workers.lm.engine import RunEngine
from workers.lm.request_settings import request_settings

__all__ = ["engine_of"]

#: Settings of a request that every model has its own of. The program's others hold for all of its models.
_OF_ONE_MODEL = frozenset({"cache", "extensions", "reasoning", "service_tier"})


async def engine_of(run: Run, endpoints: Endpoints) -> RunEngine:
    """The engine of the program's model. Raises as :meth:`Endpoints.of` does, if the program has no other model."""
    model = run.program.main_model
    fallback = [partial(_fallback, run, endpoints, other) for other in run.program.fallback_models]
    try:
        endpoint, headers = await endpoints.of(model), await endpoints.headers(model)
    except ModelError as error:
        if not fallback or error.code not in OUT_OF_REACH:
            raise
        return RunEngine(run, await endpoints.without_key(model), fallback=fallback, refusal=error)
    return RunEngine(run, endpoint, headers=headers, declared=model, fallback=fallback)


async def _fallback(run: Run, endpoints: Endpoints, model: Model) -> RunEngine:
    """Its calls go through no batch API: the execution has waited for the first model. Raises ModelError."""
    endpoint = await endpoints.of(model)
    return RunEngine(
        run,
        endpoint,
        model.api_base,
        await endpoints.headers(model),
        adapt=partial(_for_model, model, request_settings(model), endpoint),
    )


def _for_model(model: Model, own: Mapping[str, Any], endpoint: Endpoint, request: Mapping[str, Any]) -> dict[str, Any]:
    """The request to the program's model, as one to this model: with its own settings where it has them."""
    shared = {name: value for name, value in request.get("config", {}).items() if name not in _OF_ONE_MODEL}
    if not endpoint.supports_response_schema:
        shared.pop("response_format", None)
    config = {**shared, **own}
    return {**request, "model": model.model, "config": config}
