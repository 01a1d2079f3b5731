"""Running the checks, and the observations they share."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from contextlib import suppress
from typing import Any

import psutil

from dspex.errors import DspexError
from dspex.program.program import Program
from workers.adapters import Adapters
from workers.adapters.contract import Adapter
from workers.conformance.attempts import AttemptUnderTest, History

__all__ = [
    "Check",
    "connections",
    "failure",
    "judged",
    "others",
    "quoted",
    "run_check",
    "spelled",
    "texts",
    "under_way",
]

Check = Callable[[Adapter], Awaitable[None]]


def run_check(name: str, check: Check, patience_seconds: float) -> None:
    """Run the check with its own adapter, loop and thread. Raises the check's error.

    A check that is not over in time is left running, and AssertionError is raised.
    """
    result: Future[None] = Future()

    async def checked() -> None:
        made = Adapters()
        try:
            await check(await made.get(name))
        except BaseException:
            with suppress(Exception):  # the check's own error counts
                await made.close()
            raise
        await made.close()

    def work() -> None:
        try:
            result.set_result(asyncio.run(checked()))
        except BaseException as error:  # any error is the check's outcome
            result.set_exception(error)

    threading.Thread(target=work, name="conformance", daemon=True).start()
    try:
        result.result(patience_seconds)
    except NotInTime:
        if result.done():
            raise
        raise AssertionError(
            f"not over in {patience_seconds:g} s: it blocks the loop, waits for ever, or ignores its cancellation"
        ) from None


async def under_way(
    adapter: Adapter, program: Program, inputs: Mapping[str, Any], history: History | None = None
) -> tuple[AttemptUnderTest, asyncio.Task[Mapping[str, Any]]]:
    """A run that has begun a model call."""
    attempt = (history or History(program, inputs)).attempt()
    work = asyncio.ensure_future(adapter.execute(attempt.run))
    calling = asyncio.ensure_future(attempt.calls.calling.wait())
    await asyncio.wait({work, calling}, return_when=asyncio.FIRST_COMPLETED)
    calling.cancel()
    return attempt, work


async def failure(adapter: Adapter, attempt: AttemptUnderTest) -> DspexError:
    try:
        outputs = await adapter.execute(attempt.run)
    except DspexError as error:
        return error
    except Exception as error:  # that it is one of these is the finding
        raise AssertionError(f"{type(error).__name__} is not an error of dspex: {error}") from error
    raise AssertionError(f"it did not fail but answered with the fields {sorted(outputs)}")


def judged(program: Program, outputs: Any) -> None:
    assert isinstance(outputs, Mapping), f"{type(outputs).__name__} is not a mapping"
    known = {field.name for field in program.signature.output_fields}
    assert set(outputs) <= known, f"fields that the signature does not have: {sorted(set(outputs) - known)}"
    program.signature.check_outputs(outputs)


def quoted(history: History, text: str) -> list[str]:
    return [value for value in texts(history.inputs) if value in text]


def texts(value: Any) -> Iterator[str]:
    """The texts in a value that are long enough not to be found in another text by chance."""
    if isinstance(value, str):
        if len(value) >= 8:
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from texts(item)


def spelled(text: str, value: Any) -> Any:
    """The value that a streamed text spells: of a text field it is the text, of any other it is JSON."""
    return text if isinstance(value, str) else json.loads(text)


def others() -> set[asyncio.Task[Any]]:
    """The tasks of this loop besides the check itself."""
    return asyncio.all_tasks() - {asyncio.current_task()}


def connections() -> int:
    return len([c for c in psutil.Process().net_connections("inet") if c.status == psutil.CONN_ESTABLISHED])
