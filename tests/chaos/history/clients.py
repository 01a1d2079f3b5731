"""Client processes that record everything they ask and see: ``python -m tests.chaos.history.clients sync …``.

Each kind uses DSPex in its own way, with questions of its own, until its time is over. What fails is recorded and is
no reason to stop.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import dspex
from dspex.client.execution import AsyncExecution
from tests.chaos.history.programs import CURRENT, PAUSED, WORK, current_program
from tests.chaos.history.record import Recorder
from tests.chaos.history.snapshots import async_snapshot, event_of, snapshot

__all__ = ["KINDS"]

DELAYS_MS = (20, 50, 100, 200)
MOST_CALLS = 3
#: What a client waits for one result, before it goes on with something else.
PATIENCE_SECONDS = 20.0


@dataclass(frozen=True)
class Task:
    """What a client process is to do: ``chance`` decides what it asks, and the pauses between, until it is ``over``."""

    recorder: Recorder
    chance: random.Random
    over: Path
    server: str

    @property
    def is_over(self) -> bool:
        """Whether the file ``over`` is there."""
        return self.over.exists()

    def rounds(self, most_seconds: float) -> Iterator[str]:
        """A new question for each round, at random intervals, until the time is over."""
        for number in itertools.count():
            if self.is_over:
                return
            yield f"{self.recorder.process} asks {number}, which takes {self.chance.choice(DELAYS_MS)} ms"
            time.sleep(self.chance.uniform(0, most_seconds))

    def inputs(self, question: str, *, fails: int = 0) -> dict[str, Any]:
        return {"question": question, "calls": self.chance.randint(1, MOST_CALLS), "fails": fails}


# --------------------------------------------------------------------------------------------------------- one by one


def sync(task: Task, client: dspex.Client) -> None:
    """Submit with a key, again until it is acknowledged; then wait, or look again and again."""
    for question in task.rounds(0.3):
        execution = _submit_until_acknowledged(task, client, question)
        if execution is None:
            continue
        if task.chance.random() < 0.5:
            _wait(task.recorder, execution)
        else:
            for _ in range(task.chance.randint(1, 5)):
                _read(task.recorder, client, execution.id)
                time.sleep(task.chance.uniform(0, 0.2))


def _submit_until_acknowledged(task: Task, client: dspex.Client, question: str) -> dspex.Execution | None:
    inputs = task.inputs(question)
    while not task.is_over:
        execution = _submit(task.recorder, client, WORK, inputs, idempotency_key=question)
        if execution is not None:
            return execution
        time.sleep(0.2)
    return None


def _submit(
    recorder: Recorder, client: dspex.Client, program: str, inputs: Mapping[str, Any], **options: Any
) -> dspex.Execution | None:
    """The execution of an acknowledged submit."""
    execution = None
    with recorder.operation("submit", program=program, questions=[inputs["question"]]) as seen:
        execution = client.submit(program, inputs, **options)
        seen |= {"ids": [str(execution.id)], "executions": [snapshot(execution)]}
    return execution if "ok" in seen else None


def _read(recorder: Recorder, client: dspex.Client, id: UUID | str) -> str | None:
    """The status, if it could be read."""
    with recorder.operation("read", id=str(id)) as seen:
        seen["executions"] = [snapshot(client.get(id))]
    return str(seen["executions"][0]["status"]) if "ok" in seen else None


def _wait(recorder: Recorder, execution: dspex.Execution) -> None:
    with recorder.operation("result", id=str(execution.id)) as seen:
        with suppress(dspex.ExecutionFailed, dspex.ExecutionCancelled):
            execution.result(PATIENCE_SECONDS)
        seen["executions"] = [snapshot(execution)]


# ------------------------------------------------------------------------------------------------------ asynchronous


async def asynchronous(task: Task) -> None:
    """Several tasks on one loop, each of which submits and waits."""
    async with dspex.AsyncClient() as client, asyncio.TaskGroup() as group:
        for lane in range(4):
            group.create_task(_lane(task, client, lane))


async def _lane(task: Task, client: dspex.AsyncClient, lane: int) -> None:
    for number in itertools.count():
        if task.is_over:
            return
        question = f"{task.recorder.process} asks {lane}.{number}, which takes {task.chance.choice(DELAYS_MS)} ms"
        execution: AsyncExecution | None = None
        with task.recorder.operation("submit", program=WORK, questions=[question]) as seen:
            execution = await client.submit(WORK, task.inputs(question))
            seen |= {"ids": [str(execution.id)], "executions": [await async_snapshot(execution)]}
        if execution is not None:
            with task.recorder.operation("result", id=str(execution.id)) as seen:
                with suppress(dspex.ExecutionFailed, dspex.ExecutionCancelled):
                    await execution.result(PATIENCE_SECONDS)
                seen["executions"] = [await async_snapshot(execution)]
        await asyncio.sleep(task.chance.uniform(0, 0.5))


# -------------------------------------------------------------------------------------------------- batches, streams


def batch(task: Task, client: dspex.Client) -> None:
    """Submit many, and take them as they complete."""
    for question in task.rounds(2.0):
        questions = [f"{question} (row {number})" for number in range(task.chance.randint(1, 40))]
        submitted = None
        with task.recorder.operation("submit_many", program=WORK, questions=questions) as seen:
            submitted = client.submit_many(WORK, [task.inputs(each) for each in questions])
            seen |= {"batch": str(submitted.id), "ids": [str(id) for id in submitted.ids]}
        if submitted is None:
            continue
        ids = [str(id) for id in submitted.ids]
        with task.recorder.operation("as_completed", batch=str(submitted.id), ids=ids) as seen:
            seen["executions"] = [snapshot(each) for each in submitted.as_completed(PATIENCE_SECONDS * 2)]


def stream(task: Task, client: dspex.Client) -> None:
    """Follow executions while they are written."""
    for question in task.rounds(0.5):
        execution = _submit(task.recorder, client, WORK, task.inputs(question), stream=True)
        if execution is not None:
            with task.recorder.operation("stream", id=str(execution.id)) as seen:
                seen["events"] = [event_of(event) for event in execution.stream(timeout=PATIENCE_SECONDS)]
                seen["executions"] = [snapshot(execution.refresh())]


# -------------------------------------------------------------------------------------------------------- operators


def retry(task: Task, client: dspex.Client) -> None:
    """Let executions fail, or cancel them; retry them, and look at them meanwhile."""
    ended: list[UUID] = []
    for question in task.rounds(0.5):
        fails = task.chance.randint(0, 1)
        execution = _submit(task.recorder, client, WORK, task.inputs(question, fails=fails))
        if execution is not None:
            if not fails:
                time.sleep(task.chance.uniform(0, 0.3))
                with task.recorder.operation("cancel", id=str(execution.id)) as seen:
                    seen["cancelled"] = execution.cancel()
            _wait(task.recorder, execution)
            ended.append(execution.id)
        for id in task.chance.sample(ended, min(2, len(ended))):
            _retry(task, client, id)
        if ended:
            _read(task.recorder, client, task.chance.choice(ended))


def _retry(task: Task, client: dspex.Client, id: UUID) -> None:
    if _read(task.recorder, client, id) in ("failed", "cancelled"):
        with task.recorder.operation("retry", id=str(id)):
            client.retry(id)
        _read(task.recorder, client, id)


def pause(task: Task, client: dspex.Client) -> None:
    """Pause a program, see that nothing of it begins, and resume it."""
    for question in task.rounds(1.0):
        with task.recorder.operation("pause", program=PAUSED) as paused:
            client.pause(PAUSED)
        execution = _submit(task.recorder, client, PAUSED, task.inputs(question))
        if execution is not None and "ok" in paused:
            for _ in range(5):
                _read(task.recorder, client, execution.id)
                time.sleep(task.chance.uniform(0, 0.3))
        with task.recorder.operation("resume", program=PAUSED):
            client.resume(PAUSED)
        if execution is not None:
            _wait(task.recorder, execution)


def deploy(task: Task, client: dspex.Client) -> None:
    """Deploy another version, and submit to the one that is current."""
    for number, question in enumerate(task.rounds(1.0)):
        program = current_program(task.server, number)
        with task.recorder.operation("deploy", program=CURRENT, version=program.version):
            client.deploy(program)
        execution = _submit(task.recorder, client, CURRENT, task.inputs(question))
        if execution is not None:
            _wait(task.recorder, execution)


def _blocking(use: Callable[[Task, dspex.Client], None]) -> Callable[[Task], None]:
    def run(task: Task) -> None:
        with dspex.Client() as client:
            use(task, client)

    return run


def _on_a_loop(use: Callable[[Task], Coroutine[Any, Any, None]]) -> Callable[[Task], None]:
    return lambda task: asyncio.run(use(task))


KINDS: Mapping[str, Callable[[Task], None]] = {
    "sync": _blocking(sync),
    "async": _on_a_loop(asynchronous),
    "batch": _blocking(batch),
    "stream": _blocking(stream),
    "retry": _blocking(retry),
    "pause": _blocking(pause),
    "deploy": _blocking(deploy),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Use DSPex for a while, and record what is asked and seen.")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--name", required=True)
    parser.add_argument("--seed", required=True)
    parser.add_argument("--over", type=Path, required=True, help="a file: once it exists, the client ends")
    parser.add_argument("--server", required=True, help="the model server's URL")
    parser.add_argument("--directory", type=Path, required=True)
    options = parser.parse_args()
    with Recorder(options.directory, options.name) as recorder:
        task = Task(recorder, random.Random(f"{options.seed} {options.name}"), options.over, options.server)
        KINDS[options.kind](task)


if __name__ == "__main__":
    main()
