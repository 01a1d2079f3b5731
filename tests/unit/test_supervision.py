"""Attempts are told to end, and are not waited for, for ever."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

import pytest

from workers.attempt import supervision
from workers.attempt.supervision import Ending, RaisedByProgram, Supervised, raised_by

pytestmark = pytest.mark.asyncio


async def forever() -> str:
    await asyncio.Event().wait()
    return "never"


async def test_the_result_is_handed_on_and_so_is_an_error() -> None:
    async def fails() -> str:
        raise ValueError("no")

    async def works() -> str:
        return "yes"

    assert await Supervised(works(), name="w").outcome(60) == "yes"
    with pytest.raises(ValueError, match="no"):
        await Supervised(fails(), name="f").outcome(60)


async def test_it_ends_at_its_deadline_or_on_request_for_the_first_reason() -> None:
    assert await Supervised(forever(), name="late").outcome(0.0) is Ending.DEADLINE
    told = Supervised(forever(), name="told")
    told.end(Ending.CANCELLED)
    told.end(Ending.HANDED_BACK)
    assert told.ending
    assert await told.outcome(60) is Ending.CANCELLED


async def test_what_finished_before_the_cancellation_reached_it_has_finished() -> None:
    async def finishes() -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return "done all the same"

    work = Supervised(finishes(), name="w")
    assert await _told_once_it_waits(work, Ending.CANCELLED) == "done all the same"


async def test_an_error_while_it_is_being_ended_is_the_ending() -> None:
    async def breaks() -> str:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("while cleaning up")
        return ""

    assert await _told_once_it_waits(Supervised(breaks(), name="w"), Ending.HANDED_BACK) is Ending.HANDED_BACK


async def test_what_ignores_its_cancellation_is_left_to_itself_and_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervision, "ENDING_SECONDS", 0.01)
    release = asyncio.Event()

    async def stubborn() -> str:
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()
        return "at last"

    with caplog.at_level(logging.ERROR, "dspex.workers"):
        work = Supervised(stubborn(), name="stubborn")
        assert await _told_once_it_waits(work, Ending.CANCELLED) is Ending.CANCELLED
    assert "stubborn did not end" in caplog.text
    assert len(supervision._strays) == 1
    release.set()
    await _until(lambda: not supervision._strays)


async def test_a_program_that_cancels_itself_is_a_failure_of_its_own() -> None:
    async def quits() -> str:
        raise asyncio.CancelledError

    with pytest.raises(RuntimeError, match="cancelled its own task"):
        await Supervised(quits(), name="q").outcome(60)


class Panic(BaseException):
    """As what extensions in Rust raise."""


@pytest.mark.parametrize("what", [SystemExit, KeyboardInterrupt, GeneratorExit, Panic])
async def test_whatever_a_program_raises_is_a_failure_of_its_own(what: type[BaseException]) -> None:
    async def raises() -> str:
        raise what

    with pytest.raises(RaisedByProgram, match=f"raised {what.__name__}") as raised:
        await Supervised(raises(), name="r").outcome(60)
    assert type(raised_by(raised.value)) is what


async def test_a_coroutine_that_is_closed_ends_without_an_error() -> None:
    work = supervision._contained(forever())
    work.send(None)
    work.close()


async def _told_once_it_waits(work: Supervised[str], why: Ending) -> str | Ending:
    outcome: Awaitable[str | Ending] = asyncio.ensure_future(work.outcome(60))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    work.end(why)
    return await outcome


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - the test's own timeout ends a wait in vain
        await asyncio.sleep(0)
