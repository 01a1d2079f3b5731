"""A thread that is interrupted anywhere in the batcher leaves no other thread waiting."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from dspex.store.batching.gathering import Gathering
from dspex.store.batching.thread_batcher import ThreadBatcher
from tests.interrupts import Interrupt, Interrupted, TimeLimit
from tests.waiting import wait_for

FILES = ("thread_batcher.py", "gathering.py")
OTHERS = (2, 3, 4)
#: More than the points of any scenario.
POINTS = 400


def interrupted(batcher: ThreadBatcher[int, int], interrupt: Interrupt) -> int | None:
    """What the batcher answers to this thread; None if it is interrupted."""
    try:
        with interrupt.armed():
            return batcher.ask(1)
    except (Interrupted, TimeLimit):
        return None


def alone(interrupt: Interrupt) -> None:
    """The thread carries its own item, and has to pass on the others, which gather meanwhile."""
    others: list[Future[int]] = []

    def flush(items: Sequence[int], _aside: bool) -> list[int]:
        if items == [1] and not others:
            others.extend(threads.submit(batcher.ask, item) for item in OTHERS)
            wait_for(lambda: len(gathering) == len(OTHERS), "the others to wait")
        return [item * item for item in items]

    gathering: Gathering[int, int] = Gathering(100)
    batcher = ThreadBatcher(flush, gathering)
    with ThreadPoolExecutor(len(OTHERS) + 1) as threads:
        assert threads.submit(interrupted, batcher, interrupt).result() in (1, None)
        assert [each.result(10) for each in others] == [item * item for item in OTHERS[: len(others)]]
        assert threads.submit(batcher.ask, 9).result(10) == 81


def for_others(interrupt: Interrupt) -> None:
    """The thread carries its own item and the others."""
    let_go = threading.Event()

    def flush(items: Sequence[int], _aside: bool) -> list[int]:
        if 0 in items:
            let_go.wait()
        return [item * item for item in items]

    gathering: Gathering[int, int] = Gathering(100)
    batcher = ThreadBatcher(flush, gathering)
    with ThreadPoolExecutor(len(OTHERS) + 2) as threads:
        first = threads.submit(batcher.ask, 0)
        wait_for(lambda: batcher._current is not None and batcher._current.batch, "the first to be sent")
        carries = threads.submit(interrupted, batcher, interrupt)
        wait_for(lambda: len(gathering) == 1 or carries.done(), "it to wait")
        others = [threads.submit(batcher.ask, item) for item in OTHERS]
        wait_for(lambda: len([each for each in gathering._waiting if each.item in OTHERS]) == len(OTHERS), "the others")
        let_go.set()
        assert first.result(10) == 0
        assert carries.result(10) in (1, None)
        assert [each.result(10) for each in others] == [item * item for item in OTHERS]
        assert threads.submit(batcher.ask, 9).result(10) == 81


@pytest.mark.parametrize("error", [Interrupted, TimeLimit])
@pytest.mark.parametrize("scenario", [alone, for_others])
def test_an_interrupted_thread_leaves_no_other_waiting(
    scenario: Callable[[Interrupt], None], error: type[BaseException]
) -> None:
    for at in range(1, POINTS):
        interrupt = Interrupt(at, error, FILES)
        scenario(interrupt)
        if not interrupt.was_raised:
            break
    assert 20 < at < POINTS - 1, "each point was one at which it was interrupted"


@pytest.mark.parametrize("error", [Interrupted, TimeLimit])
def test_what_is_raised_in_a_thread_within_its_statement_is_raised_to_its_caller_alone(
    error: type[BaseException],
) -> None:
    let_go, carriers = threading.Event(), list[threading.Thread]()

    def flush(items: Sequence[int], _aside: bool) -> list[int]:
        if 0 in items:
            let_go.wait()
        elif not carriers:
            carriers.append(threading.current_thread())
            raise error
        return [item * item for item in items]

    gathering: Gathering[int, int] = Gathering(100)
    batcher = ThreadBatcher(flush, gathering)
    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(batcher.ask, 0)
        wait_for(lambda: batcher._current is not None and batcher._current.batch, "the first to be sent")
        others = [threads.submit(batcher.ask, item) for item in OTHERS]
        wait_for(lambda: len(gathering) == len(OTHERS), "the others to wait")
        let_go.set()
        assert first.result(10) == 0
        raised = [each.exception(10) for each in others]
        assert [type(each) for each in raised if each is not None] == [error]
        assert sum(each.result() for each in others if each.exception() is None) > 0
