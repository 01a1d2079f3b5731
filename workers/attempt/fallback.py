"""When a program's next adapter is tried after one failed."""

from __future__ import annotations

from dspex.errors import DspexError

__all__ = ["ANOTHER_FORM", "BAD_ANSWERS", "may_fall_back"]

#: The model's answers are at fault: the next attempt asks again for those, and replays the others.
BAD_ANSWERS = frozenset({"output_unparseable", "output_invalid"})
#: Another adapter may succeed with the same program and model: this worker has it, and the code that it needs; or it
#: asks in another form, with fewer words, or without what the provider does not support.
ANOTHER_FORM = BAD_ANSWERS | {"adapter_unavailable", "code_not_found", "context_window_exceeded", "unsupported"}
#: What one adapter asks of a provider and another does not: a provider that refuses it refuses the form.
_FORM = frozenset({"grammar", "json_object", "json_schema", "response_format", "tool_choice", "tools"})


def may_fall_back(error: DspexError) -> bool:
    """Whether the program's next adapter may succeed where this error ended one.

    Not when it would fail in the same way (credentials, billing, an endpoint that is away, the inputs, the program's
    own code), nor after a limit (budget, deadline, cancellation).
    """
    if error.code == "invalid_request":
        return not _FORM.isdisjoint(error.details.get("mentions", ()))
    return error.code in ANOTHER_FORM
