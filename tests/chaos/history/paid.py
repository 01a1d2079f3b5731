"""What the counting model server must have seen of a question, computed from the question alone.

The adapter of tests/chaos/steps.py asks the question with the answer before it, and the server answers the same request
with the same text, so the requests and the result of a question are known before it is asked.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple

from tests.chaos.steps import body_of

__all__ = ["Paid", "digest", "paid"]


class Paid(NamedTuple):
    """The server's hash of each request, in order, and the last answer."""

    requests: tuple[str, ...]
    answer: str


def paid(question: str, calls: int) -> Paid:
    """The requests and the answer of a question of so many calls."""
    requests: list[str] = []
    answer = ""
    for number in range(calls):
        requests.append(digest(body_of(question, number, answer)))
        answer = f"answer {requests[-1][:8]}"
    return Paid(tuple(requests), answer)


def digest(body: dict[str, Any]) -> str:
    """As the model server counts requests."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
