"""Where the local model is served is asked once for all who want to know at the same time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from dspex.errors import BackendUnavailable, ModelError
from workers.lm.connect.local_model import LocalModelAddress


class Stack:
    """Answers when it is told to; each answer is another address."""

    def __init__(self) -> None:
        self.asked = 0
        self.may_answer = threading.Event()

    def look(self) -> str:
        self.asked += 1
        self.may_answer.wait()
        return f"http://127.0.0.1:{self.asked}/v1"


async def test_callers_at_the_same_time_share_one_look_up_and_later_ones_look_again() -> None:
    stack = Stack()
    address = LocalModelAddress(stack.look)
    callers = [asyncio.create_task(address()) for _ in range(50)]
    await asyncio.sleep(0)
    callers[0].cancel()  # the others still want to know
    stack.may_answer.set()
    found = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert set(found[1:]) == {"http://127.0.0.1:1/v1"}
    assert await address() == "http://127.0.0.1:2/v1"  # it may have moved
    address.close()


async def test_a_look_up_that_fails_is_not_remembered() -> None:
    answers: Iterator[BackendUnavailable | str] = iter([BackendUnavailable("away"), "http://127.0.0.1:1/v1"])

    def look() -> str:
        answer = next(answers)
        if isinstance(answer, BackendUnavailable):
            raise answer
        return answer

    address = LocalModelAddress(look)
    with pytest.raises(ModelError) as caught:
        await address()
    assert (caught.value.code, caught.value.retryable) == ("provider_unavailable", True)
    assert await address() == "http://127.0.0.1:1/v1"
    address.close()
