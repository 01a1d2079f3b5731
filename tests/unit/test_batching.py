"""Batchers: what waits at the same time is flushed together, and each caller gets its own outcome."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from dspex.errors import BackendUnavailable, ValidationError
from dspex.store.batching.gathering import Gathering, Hold
from dspex.store.batching.loop_batcher import LoopBatcher
from dspex.store.batching.thread_batcher import ThreadBatcher
from tests.waiting import wait_for


class Statement:
    """Answers with squares. Its first call waits until it is let go; ``refuse`` raises for items that it chooses."""

    def __init__(self, refuse: Callable[[Sequence[int]], None] = lambda _items: None) -> None:
        self.batches: list[list[int]] = []
        self.let_go = threading.Event()
        self.let_tasks_go = asyncio.Event()
        self._refuse = refuse

    def __call__(self, items: Sequence[int], _aside: bool) -> list[int]:
        self.batches.append(list(items))
        if len(self.batches) == 1:
            self.let_go.wait()
        self._refuse(items)
        return [item * item for item in items]

    async def awaited(self, items: Sequence[int], _aside: bool) -> list[int]:
        self.batches.append(list(items))
        if len(self.batches) == 1:
            await self.let_tasks_go.wait()
        self._refuse(items)
        return [item * item for item in items]


def gathered(most: int = 100) -> Gathering[int, int]:
    return Gathering(most, weight=lambda item: item, most_weight=1000)


def ask_all(statement: Statement, items: Sequence[int], most: int = 100) -> list[Future[int]]:
    """Ask for the first item alone, and for the others, one after the other, while its statement is under way."""
    gathering = gathered(most)
    batcher = ThreadBatcher(statement, gathering)
    with ThreadPoolExecutor(len(items)) as threads:
        asked = [threads.submit(batcher.ask, items[0])]
        wait_for(lambda: statement.batches, "the first to be sent")
        for number, item in enumerate(items[1:], 1):
            asked.append(threads.submit(batcher.ask, item))
            wait_for(lambda: len(gathering._waiting) == number, "it to wait")  # noqa: B023
        statement.let_go.set()
    return asked


def share_a_statement(batcher: ThreadBatcher[int, int], statement: Statement, threads: ThreadPoolExecutor) -> None:
    """Ask for 1, and for 2 and 3 while its statement is under way: the last statement of the batcher is shared."""
    asked = [threads.submit(batcher.ask, 1)]
    wait_for(lambda: statement.batches, "the first to be sent")
    asked += [threads.submit(batcher.ask, item) for item in (2, 3)]
    wait_for(lambda: len(batcher._gathering) == 2, "the others to wait")
    statement.let_go.set()
    assert [each.result() for each in asked] == [1, 4, 9]


def refuse(*bad: int, error: Exception | None = None) -> Callable[[Sequence[int]], None]:
    def check(items: Sequence[int]) -> None:
        if found := set(items) & set(bad):
            raise error or ValidationError(f"{min(found)} is at fault")

    return check


def test_the_first_goes_at_once_and_the_next_share_a_statement() -> None:
    statement = Statement()
    asked = ask_all(statement, [1, 2, 3, 4, 5, 6], most=3)
    assert [each.result() for each in asked] == [1, 4, 9, 16, 25, 36]
    assert statement.batches == [[1], [2, 3, 4], [5, 6]]


def test_after_a_shared_statement_those_who_come_within_a_moment_share_the_next() -> None:
    statement = Statement()
    gathering = gathered()
    coming: list[Future[int]] = []

    def others_come(_seconds: float) -> None:
        if not coming:
            coming.extend(threads.submit(batcher.ask, item) for item in (5, 6))
            wait_for(lambda: len(gathering) == 3, "them to wait")

    batcher = ThreadBatcher(statement, gathering, pause=others_come)
    with ThreadPoolExecutor(3) as threads:
        share_a_statement(batcher, statement, threads)
        assert batcher.ask(4) == 16
        assert [each.result() for each in coming] == [25, 36]
        assert batcher.ask(7) == 49
    assert [sorted(batch) for batch in statement.batches] == [[1], [2, 3], [4, 5, 6], [7]]


def test_a_full_statement_waits_for_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dspex.store.batching.thread_batcher.LONGEST_SECONDS", 60.0)
    statement = Statement()
    gathering = gathered(most=3)
    pauses: list[list[Future[int]]] = []

    def others_come(_seconds: float) -> None:
        pauses.append([threads.submit(batcher.ask, item) for item in (5, 6, 7)])
        wait_for(lambda: len(gathering) == 4, "them to wait")

    batcher = ThreadBatcher(statement, gathering, pause=others_come)
    with ThreadPoolExecutor(4) as threads:
        share_a_statement(batcher, statement, threads)
        assert batcher.ask(4) == 16
    assert [[each.result() for each in come] for come in pauses] == [[25, 36, 49]]


def test_one_at_fault_fails_no_other() -> None:
    statement = Statement(refuse(3))
    asked = ask_all(statement, [1, 2, 3, 4])
    assert [asked[n].result() for n in (0, 1, 3)] == [1, 4, 16]
    assert isinstance(asked[2].exception(), ValidationError)
    assert sorted(statement.batches[2:]) == [[2], [3], [4]]


def test_what_concerns_all_is_not_tried_for_each() -> None:
    statement = Statement(refuse(2, error=BackendUnavailable("Postgres is away")))
    asked = ask_all(statement, [1, 2, 3])
    raised = [asked[1].exception(), asked[2].exception()]
    assert all(isinstance(error, BackendUnavailable) for error in raised)
    assert raised[0] is not raised[1]
    assert statement.batches == [[1], [2, 3]]


def test_a_heavy_item_goes_beside_the_others() -> None:
    statement = Statement()
    batcher = ThreadBatcher(statement, gathered())
    with ThreadPoolExecutor(1) as thread:
        light = thread.submit(batcher.ask, 1)
        wait_for(lambda: statement.batches, "the first to be sent")
        assert batcher.ask(2000) == 4_000_000
        assert not light.done()
        statement.let_go.set()


def test_a_caller_that_is_interrupted_leaves_nobody_waiting() -> None:
    def interrupt(items: Sequence[int]) -> None:
        if items[0] == 1:
            raise KeyboardInterrupt

    asked = ask_all(Statement(interrupt), [1, 2, 3])
    assert isinstance(asked[0].exception(), KeyboardInterrupt)
    assert [each.result() for each in asked[1:]] == [4, 9]


def test_what_follows_a_statement_comes_before_the_results() -> None:
    seen: list[tuple[list[int], list[int]]] = []
    batcher = ThreadBatcher(
        lambda items, _aside: [item * item for item in items],
        gathered(),
        then=lambda items, results: seen.append((list(items), list(results))),
    )
    assert batcher.ask(3) == 9
    assert seen == [([3], [9])]


def test_a_thread_whose_result_is_held_back_waits_for_the_end_of_the_hold() -> None:
    batcher = ThreadBatcher(lambda items, _aside: [item * item for item in items], gathered())
    for item in (3, 2000):
        hold = Hold()
        with ThreadPoolExecutor(1) as thread:
            asked = thread.submit(batcher.ask, item, hold)
            wait_for(lambda: hold.since is not None, "its result")  # noqa: B023
            assert not asked.done()
            hold.end()
            assert asked.result() == item * item


def test_what_is_held_back_is_given_at_once_after_the_end_of_the_hold() -> None:
    batcher = ThreadBatcher(lambda items, _aside: [item * item for item in items], gathered())
    hold = Hold()
    hold.end()
    assert batcher.ask(3, hold) == 9
    hold.end()


def test_nothing_and_errors_are_not_held_back() -> None:
    def nothing(items: Sequence[int], _aside: bool) -> list[int | None]:
        if items == [2]:
            raise ValidationError("2 is at fault")
        return [None] * len(items)

    batcher: ThreadBatcher[int, int | None] = ThreadBatcher(nothing, Gathering(100))
    assert batcher.ask(1, Hold()) is None
    with pytest.raises(ValidationError, match="2 is at fault"):
        batcher.ask(2, Hold())


def test_one_whose_result_is_held_back_carries_no_statement_for_others() -> None:
    statement, hold = Statement(), Hold()
    gathering = gathered()
    batcher = ThreadBatcher(statement, gathering)
    with ThreadPoolExecutor(3) as threads:
        held = threads.submit(batcher.ask, 1, hold)
        wait_for(lambda: statement.batches, "the first to be sent")
        others = [threads.submit(batcher.ask, item) for item in (2, 3)]
        wait_for(lambda: len(gathering) == 2, "the others to wait")
        statement.let_go.set()
        assert [each.result() for each in others] == [4, 9]
        assert not held.done()
        hold.end()
        assert held.result() == 1


async def test_a_task_whose_result_is_held_back_waits_for_the_end_of_the_hold() -> None:
    statement = Statement()
    statement.let_tasks_go.set()
    batcher = LoopBatcher(statement.awaited, gathered())
    hold = Hold()
    held = batcher.add(2, hold)
    assert await batcher.add(3) == 9
    assert not held.done()
    hold.end()
    assert await held == 4
    left = batcher.add(4, hold := Hold())
    await batcher.add(5)
    left.cancel()
    hold.end()


async def test_tasks_share_statements_as_threads_do() -> None:
    statement = Statement(refuse(3))
    batcher = LoopBatcher(statement.awaited, gathered(most=3))
    first = batcher.add(1)
    await asyncio.sleep(0)
    asked = [batcher.add(item) for item in (2, 3, 4, 5)]
    asked[3].cancel()
    statement.let_tasks_go.set()
    done = await asyncio.gather(first, *asked, return_exceptions=True)
    assert [done[n] for n in (0, 1, 3)] == [1, 4, 16]
    assert isinstance(done[2], ValidationError)
    assert statement.batches == [[1], [2, 3, 4], [2], [3], [4]], "what nobody waits for is not sent"


async def test_after_a_shared_statement_tasks_that_come_within_a_moment_share_the_next() -> None:
    statement = Statement()
    batcher = LoopBatcher(statement.awaited, gathered())
    first = batcher.add(1)
    await asyncio.sleep(0)
    asked = [first, batcher.add(2), batcher.add(3)]
    statement.let_tasks_go.set()
    assert await asyncio.gather(*asked) == [1, 4, 9]
    asked = [batcher.add(4)]
    for item in (5, 6):
        await asyncio.sleep(0)
        asked.append(batcher.add(item))
    assert await asyncio.gather(*asked) == [16, 25, 36]
    assert statement.batches == [[1], [2, 3], [4, 5, 6]]


async def test_a_closed_batcher_leaves_nobody_waiting() -> None:
    batcher = LoopBatcher(Statement().awaited, gathered())
    under_way = batcher.add(1)
    await asyncio.sleep(0)
    waiting = batcher.add(2)
    await batcher.close()
    late = batcher.add(3)
    for each in (under_way, waiting, late):
        with pytest.raises(asyncio.CancelledError):
            await each
