"""Retries of one model call within its attempt: by the policy of :mod:`workers.attempt.retry_policy`."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from dspex.errors import ModelError
from workers.attempt.retry_policy import LONGEST_PAUSE_SECONDS, WITHIN_ATTEMPT, backoff_seconds, is_transient

__all__ = ["CallRetries"]

T = TypeVar("T")


class CallRetries:
    """Makes a call again after a failure that passes by itself within seconds; see
    :class:`workers.adapters.contract.Tries`."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline

    async def __call__(self, call: Callable[[], Awaitable[T]], /) -> T:
        async def made() -> T:
            return await call()

        retrying = AsyncRetrying(retry=retry_if_exception(is_transient), wait=_pause, stop=self._gives_up, reraise=True)
        try:
            return await retrying(made)
        finally:
            retrying.iter_state.reset()  # it refers to itself: only Python's collector would free it

    def _gives_up(self, tries: RetryCallState) -> bool:
        """Whether it was tried often enough, or the pause would hold the slot for long, or outlast the attempt."""
        longest = min(LONGEST_PAUSE_SECONDS, self._deadline - time.monotonic())
        return tries.attempt_number >= WITHIN_ATTEMPT.max_attempts or tries.upcoming_sleep > longest


def _pause(tries: RetryCallState) -> float:
    error = tries.outcome.exception() if tries.outcome else None
    assert isinstance(error, ModelError)  # no other error is transient
    chance = random.random()  # noqa: S311
    return backoff_seconds(error, attempt=tries.attempt_number, retry=WITHIN_ATTEMPT, chance=chance)
