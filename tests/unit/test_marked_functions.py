"""Functions of users' code that are marked: ``dspex.setup`` and ``dspex.tool``."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import dspex
from dspex.program.calls.tool_policy import policy_of
from dspex.program.marked_functions import registered_setups


def test_a_setup_function_runs_once_whoever_calls_it_first() -> None:
    begun = threading.Barrier(5)
    runs: list[int] = []

    @dspex.setup
    def heavy() -> object:
        """Heavy."""
        runs.append(1)
        return object()

    found: list[object] = []

    def call() -> None:
        begun.wait()
        found.append(heavy())

    threads = [threading.Thread(target=call) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(runs), len(set(map(id, found)))) == (1, 1)
    assert (heavy.__doc__, heavy in registered_setups()) == ("Heavy.", True)


def test_one_that_fails_is_run_again() -> None:
    left = [ValueError, None]

    @dspex.setup
    def flaky() -> str:
        if (error := left.pop(0)) is not None:
            raise error
        return "loaded"

    with pytest.raises(ValueError):  # noqa: PT011 - its own
        flaky()
    assert not flaky.is_done
    assert flaky() == "loaded"


def test_a_setup_function_takes_nothing_and_is_not_awaited() -> None:
    async def awaited() -> None:
        """Not for this."""

    def taking(size: int) -> int:
        return size

    for function in (awaited, taking):
        with pytest.raises(TypeError, match="without parameters"):
            dspex.setup(function)  # type: ignore[arg-type]


def test_a_marked_tool_stays_the_function_that_it_is() -> None:
    @dspex.tool(timeout=2)
    def weather(city: str) -> str:
        return city

    @dspex.tool
    def plain(city: str) -> str:
        return city

    assert weather("Paris") == plain("Paris") == "Paris"
    assert (policy_of(weather).timeout, policy_of(plain).timeout, policy_of(len).timeout) == (2, None, None)


@pytest.mark.parametrize("timeout", [0, -1, "2", True, 1e9])
def test_a_timeout_is_a_number_of_seconds(timeout: Any) -> None:
    with pytest.raises(dspex.ValidationError, match="timeout: expected"):
        dspex.tool(timeout=timeout)
