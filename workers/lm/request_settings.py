"""The settings of a model as requests carry them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import lm15
from lm15.serde import config_to_dict

from dspex.errors import ModelError
from dspex.program.models import Model

__all__ = ["request_settings", "with_members", "without_members"]

#: Options that are no part of a request's body.
_OF_THE_CALL = frozenset({"extra_headers", "timeout"})
#: The option whose content is members of a request's body.
_EXTRA_BODY = "extra_body"
#: What only LiteLLM reads: whether it leaves out what it takes for unsupported, and what it does beside the request.
_OF_LITELLM = frozenset({"allowed_openai_params", "drop_params"})
_DONE_BY_LITELLM = frozenset(
    {"additional_drop_params", "cache_control_injection_points", "caching", "fallbacks", "mock_response"}
)
#: No members: they would change what is asked beside lm15, or make an answer that is no text, or are read by DSPy.
_NEVER = frozenset(
    {"audio", "messages", "modalities", "model", "n", "stream", "stream_options", "tools"}
    | {"finetuning_model", "launch_kwargs", "num_generations", "prompt_cache", "rollout_id", "train_kwargs"}
    | {"use_developer_role"}
)


def request_settings(model: Model) -> dict[str, Any]:
    """What the model sets: the ``config`` of a request in lm15's canonical form. Raises ModelError for options that no
    request can carry."""
    body = {name: value for name, value in model.options.items() if name not in _OF_THE_CALL and value is not None}
    sampling = {"temperature": model.temperature, "max_tokens": model.max_tokens}
    body |= {name: value for name, value in sampling.items() if value is not None}
    read, members = without_members(model.model, body)
    asked = {"model": model.model, "messages": [{"role": "user", "content": "?"}], **read}
    try:
        return with_members(config_to_dict(lm15.request_from_openai_chat(asked).config), members)
    except (lm15.LM15Error, TypeError, ValueError):  # whose text may quote a value
        raise ModelError(
            f"model {model.model!r}: its options cannot be sent: {', '.join(sorted(body))}",
            code="invalid_request",
            retryable=False,
            model=model.model,
        ) from None


def without_members(model: str, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options that lm15 reads, and the others: a server's own, which are members of a request's body as they stand,
    such as vLLM's ``min_p``, and what is in ``extra_body``.

    Raises ModelError for members that no request can have.
    """
    is_litellm = model.startswith("litellm/")
    left_out = {_EXTRA_BODY} if is_litellm else {_EXTRA_BODY, *_OF_LITELLM}
    given = {name: value for name, value in options.items() if name not in left_out and value is not None}
    members = {name: value for name, value in given.items() if not _is_read(name)}
    wrong = set((_NEVER if is_litellm else _NEVER | _DONE_BY_LITELLM).intersection(members))
    extra = options.get(_EXTRA_BODY)
    if isinstance(extra, Mapping):
        members |= extra
        wrong |= {f"{_EXTRA_BODY}[{name!r}]" for name in extra if not isinstance(name, str) or name in _NEVER}
    elif extra is not None:
        wrong.add(_EXTRA_BODY)
    if wrong:
        raise ModelError(
            f"model {model!r}: a request cannot have these options: {', '.join(sorted(wrong))}",
            code="invalid_request",
            retryable=False,
            model=model,
        )
    return {name: value for name, value in given.items() if name not in members}, members


def with_members(config: Mapping[str, Any], members: Mapping[str, Any]) -> dict[str, Any]:
    """A request's ``config`` with these members, in lm15's canonical form."""
    if not members:
        return dict(config)
    return {**config, "extensions": {**(config.get("extensions") or {}), **members}}


@cache
def _is_read(name: str) -> bool:
    """Whether lm15 has a place for this option."""
    try:
        lm15.request_from_openai_chat({"model": "m", "messages": [{"role": "user", "content": "?"}], name: None})
    except lm15.UnsupportedFeatureError:
        return False
    except (lm15.LM15Error, TypeError, ValueError):  # it is read, and None is no value of it
        return True
    return True
