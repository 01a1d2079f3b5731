"""Targets: which model is asked through a batch API, and where. Requests with equal targets share bundles."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Self

from dspex.errors import ModelError
from dspex.program.calls.routes import CallsRoute
from dspex.program.models import Model
from dspex.program.program import Program
from workers.adapters.contract import BatchAim
from workers.lm.connect.endpoint import Endpoint, NamedModel
from workers.lm.connect.providers import Route

__all__ = ["BatchTarget", "batch_aim", "declared_model", "format_of"]

#: The batch APIs by the protocol of their models.
_FORMATS = {"openai-chat": "openai", "anthropic": "anthropic", "gemini": "gemini"}
#: Providers whose batch API differs from the one of their protocol.
_WITHOUT = frozenset({"azure-chat", "azure", "vertex", "vertex-express", "bedrock"})


@dataclass(frozen=True, slots=True)
class BatchTarget:
    """A model as a program declares it. ``api_key_env`` names its key, which is not stored; nor are secrets in
    ``headers``, which name their variables."""

    model: str
    format: str
    within_seconds: float
    api_base: str | None = None
    api_key_env: str | None = None
    headers: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        """As it is stored: equal targets have equal texts."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @property
    def declared(self) -> Model:
        """The model, with its headers."""
        return Model(self.model, self.api_key_env, self.api_base, options={"extra_headers": dict(self.headers)})

    @classmethod
    def read(cls, stored: str) -> Self:
        """A stored target."""
        data = json.loads(stored)
        return cls(**{**data, "headers": tuple(map(tuple, data["headers"]))})


def format_of(route: Route) -> str | None:
    """The format of the batch API behind a model; None where DSPex knows none."""
    if route.provider in _WITHOUT:
        return None
    return _FORMATS.get(str(getattr(route.definition, "dialect", None)))


def batch_aim(endpoint: Endpoint, declared: Model, route: CallsRoute) -> BatchAim | None:
    """How a call reaches the batch API of this endpoint; None when it is made the ordinary way, as there is none.

    Raises ModelError ``unsupported`` where the program does not allow that.
    """
    falls_back = route.otherwise == "standard"
    found = format_of(endpoint.route)
    if found is None or endpoint.model == "smollm2":
        if falls_back:
            return None
        raise ModelError(
            f"model {endpoint.model!r}: DSPex knows no batch API of this provider, and otherwise is not 'standard'",
            code="unsupported", retryable=False, model=endpoint.model,
        )  # fmt: skip
    headers = tuple(sorted(declared.options.get("extra_headers", {}).items()))
    target = BatchTarget(declared.model, found, route.within_seconds, declared.api_base, declared.api_key_env, headers)
    return BatchAim(str(target), route.within_seconds, falls_back)


def declared_model(program: Program, named: NamedModel) -> Model | None:
    """What declares a model that the program's code names; None for one with a key or headers of its own: they may be
    secrets, and are not stored."""
    if named.name is not None:
        return program.named_models[named.name]
    if named.api_key is not None or named.headers:
        return None
    if named.model == program.model and named.api_base == program.api_base:
        return program.main_model
    return Model(named.model, program.api_key_env if named.api_base is not None else None, named.api_base)
