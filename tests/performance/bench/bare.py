"""The floor under an execution: the same program on one asyncio loop in one process, and nothing durable.

``python -m tests.performance.bench.bare engine URL COUNT``  DSPex's DSPy adapter and engine, answers kept nowhere
``python -m tests.performance.bench.bare dspy URL COUNT``    dspy.Predict itself, on its own engine
``python -m tests.performance.bench.bare canned COUNT``      dspy.Predict itself, answered without HTTP

Each prints ``{"seconds": …, "cpu_ms": …}``: the wall time of all, and the CPU time of each.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from datetime import datetime
from typing import Any

import dspy
from dspy.lm15 import Message, Request, Response, Usage
from uuid_utils.compat import uuid7

import dspex
from tests.performance.bench.model import SECTIONS
from tests.recording import MemoryJournal, MemoryTrail
from workers.adapters.contract import Answer, Run, Tries, once
from workers.adapters.dspy.dspy_adapter import DspyAdapter

IN_FLIGHT = 500
WARM_UP = 200


class NoJournal(MemoryJournal):
    """Makes each call, and keeps nothing."""

    async def perform(
        self,
        request_hash: str,
        model: str,
        call: Callable[[], Awaitable[Answer]],
        *,
        tries: Tries = once,
        **_: object,
    ) -> dict[str, Any]:
        return (await tries(call)).response


class NoTrail(MemoryTrail):
    def record(self, kind: str, *, began_at: datetime | None = None, **data: Any) -> None:
        """Nothing is kept."""


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
    lm = dspy.LM("openai/fake", engine=Canned(), async_engine=AsyncCanned(), cache=False, num_retries=0)
    return await predict(lm, count)


async def own(url: str, count: int) -> dict[str, float]:
    lm = dspy.LM("openai/fake", engine="lm15", api_base=url, api_key="none", cache=False, num_retries=0)
    return await predict(lm, count)


async def predict(lm: dspy.LM, count: int) -> dict[str, float]:
    module = dspy.Predict("question -> answer")

    async def ask(number: int) -> object:
        with dspy.context(lm=lm, trace=[], callbacks=[], disable_history=True, track_usage=False):
            return await module.acall(question=f"question {number}")

    return await measure(ask, count)


MEASURES: dict[str, Callable[..., Coroutine[Any, Any, dict[str, float]]]] = {
    "engine": engine,
    "dspy": own,
    "canned": canned,
}


def main() -> None:
    what, *url, count = sys.argv[1:]
    print(json.dumps(asyncio.run(MEASURES[what](*url, int(count)))))


if __name__ == "__main__":
    main()
