"""The settings of a model as requests carry them."""

from __future__ import annotations

from typing import Any

import lm15
from lm15.serde import config_to_dict

from dspex.errors import ModelError
from dspex.program.models import Model

__all__ = ["request_settings"]

#: Options that are no part of a request's body.
_OF_THE_CALL = frozenset({"extra_headers", "timeout"})


def request_settings(model: Model) -> dict[str, Any]:
    """What the model sets: the ``config`` of a request in lm15's canonical form. Raises ModelError for options that no
    request can carry."""
    body = {name: value for name, value in model.options.items() if name not in _OF_THE_CALL and value is not None}
    sampling = {"temperature": model.temperature, "max_tokens": model.max_tokens}
    body |= {name: value for name, value in sampling.items() if value is not None}
    asked = {"model": model.model, "messages": [{"role": "user", "content": "?"}], **body}
    try:
        return config_to_dict(lm15.request_from_openai_chat(asked).config)
    except (lm15.LM15Error, TypeError, ValueError):  # whose text may quote a value
        raise ModelError(
            f"model {model.model!r}: its options cannot be sent: {', '.join(sorted(body))}",
            code="invalid_request",
            retryable=False,
            model=model.model,
        ) from None
