"""The error for a reply that is not an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lm15

from workers.lm.replies.error_rules import SCHEMA, UNEXPECTED, ErrorRule

__all__ = ["ReplyFault"]


class ReplyFault(lm15.ProviderError):
    """A reply that is not an answer, by the rule that tells what it is. The message is the provider's: evidence that
    is searched for names of parameters, and never repeated. ``env_keys``: the variables that may hold the key."""

    def __init__(
        self, message: str = "", *, rule: ErrorRule = UNEXPECTED, env_keys: Sequence[str] = (), **evidence: Any
    ) -> None:
        super().__init__(message, **evidence)
        self.rule = rule
        self.env_keys = tuple(env_keys)

    @property
    def is_about_schema(self) -> bool:
        """Whether the server refused the schema of the answer."""
        return self.rule is SCHEMA
