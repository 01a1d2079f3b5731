"""The error for a reply that is not an answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import lm15

from workers.lm.replies.error_rules import SCHEMA, UNEXPECTED, ErrorRule
from workers.lm.replies.request_ids import request_id
from workers.lm.replies.retry_after import asked_delay

__all__ = ["ReplyFault"]


class ReplyFault(lm15.ProviderError):
    """A reply that is not an answer, with the rule for its kind. The message is the provider's: evidence that
    is searched for names of parameters, and never repeated. ``env_keys``: the variables that may hold the key."""

    def __init__(
        self, message: str = "", *, rule: ErrorRule = UNEXPECTED, env_keys: Sequence[str] = (), **evidence: Any
    ) -> None:
        super().__init__(message, **evidence)
        self.rule = rule
        self.env_keys = tuple(env_keys)

    def add_head(self, status: int, headers: Iterable[tuple[str, str]]) -> None:
        """Add what the head of the reply says."""
        given = tuple(headers)
        self.status = status
        self.request_id = request_id(given)
        self.retry_after = asked_delay(given)

    @property
    def is_about_schema(self) -> bool:
        """Whether the server refused the schema of the answer."""
        return self.rule is SCHEMA
