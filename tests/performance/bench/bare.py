"""The floor under an execution: the same program on one asyncio loop in one process, and nothing durable.

``python -m tests.performance.bench.bare engine URL COUNT``  DSPex's DSPy adapter and engine, answers kept nowhere
``python -m tests.performance.bench.bare canned COUNT``      dspy.Predict itself, answered without HTTP

Either prints ``{"seconds": …, "cpu_ms": …}``: the wall time of all, and the CPU time of each.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Collection
from datetime import UTC, datetime
from typing import Any

import dspy
from dspy.lm15 import Message, Request, Response, Usage
from uuid_utils.compat import uuid7

import dspex
from tests.performance.bench.model import SECTIONS
from workers.adapters.dspy import DspyAdapter
from workers.run import Answer, Estimate, Run, Tries, once

IN_FLIGHT = 500
WARM_UP = 200


class NoJournal:
    """Makes each call, and keeps nothing."""

    async def perform(
        self,
        request_hash: str,
        model: str,
        call: Callable[[], Awaitable[Answer]],
        *,
        tries: Tries = once,
        repair: bool = False,
        estimate: Callable[[], Estimate] | None = None,
    ) -> dict[str, Any]:
        return (await tries(call)).response

    def reject(self, request_hashes: Collection[str]) -> None:
        """Nothing is replayed."""


class NoTrail:
    def record(self, kind: str, *, began_at: datetime | None = None, **data: Any) -> None:
        """Nothing is kept."""

    def now(self) -> datetime:
        return datetime.now(UTC)


async def measure(ask: Callable[[int], Awaitable[object]], count: int) -> dict[str, float]:
    slots = asyncio.Semaphore(IN_FLIGHT)

    async def one(number: int) -> None:
        async with slots:
            await ask(number)

    await asyncio.gather(*(one(-n) for n in range(WARM_UP)))
    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(one(n) for n in range(count)))
    return {"seconds": time.perf_counter() - began, "cpu_ms": (time.process_time() - cpu) * 1000 / count}


async def engine(url: str, count: int) -> dict[str, float]:
    program = dspex.Program("bare", dspex.signature("question -> answer"), model="openai/fake", api_base=url)
    adapter, journal, trail = DspyAdapter(), NoJournal(), NoTrail()
    await adapter.prepare(program)

    async def ask(number: int) -> object:
        inputs = program.signature.validate_inputs({"question": f"question {number}"})
        run = Run(uuid7(), 1, program, inputs, journal, trail)
        return program.signature.check_outputs(await adapter.execute(run))

    try:
        return await measure(ask, count)
    finally:
        await adapter.close()


class Canned:
    """DSPy's engine with one answer."""

    def complete(self, request: Request) -> Response:
        return Response(None, "fake", Message.assistant(SECTIONS), "stop", Usage(120, 15, 135))


class AsyncCanned:
    async def complete(self, request: Request) -> Response:
        return Canned().complete(request)


async def canned(count: int) -> dict[str, float]:
    predict = dspy.Predict("question -> answer")
    lm = dspy.LM("openai/fake", engine=Canned(), async_engine=AsyncCanned(), cache=False, num_retries=0)

    async def ask(number: int) -> object:
        with dspy.context(lm=lm, trace=[], callbacks=[], disable_history=True, track_usage=False):
            return await predict.acall(question=f"question {number}")

    return await measure(ask, count)


def main() -> None:
    what, *rest = sys.argv[1:]
    work = engine(rest[0], int(rest[1])) if what == "engine" else canned(int(rest[0]))
    print(json.dumps(asyncio.run(work)))


if __name__ == "__main__":
    main()
