"""A third-party adapter for crash tests: a chain of model calls over HTTP, without DSPy's seconds of import.

It is found by its entry point, in ``tests/chaos/plugin``. Each call depends on the answer before it, goes through the
journal, and is counted by the model server (``tests/model_server.py``). Its options: ``server``, the server's address.
The inputs say the rest: ``question``; ``calls``, how many calls it takes (1); and ``fails``, how many attempts fail for
good once their calls are made (0).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import aiohttp

from dspex.errors import ModelError, ProgramError
from dspex.program.adapters import AdapterInfo, Capabilities
from dspex.program.program import Program
from workers.adapters.contract import Answer, Run, StreamedAnswer

__all__ = ["ADAPTER", "StepsAdapter", "body_of"]

ADAPTER = AdapterInfo(
    "steps",
    "A chain of model calls, for crash tests",
    f"{__name__}:StepsAdapter",
    Capabilities(modules=frozenset({"predict"}), options=frozenset({"server"}), calls_models=False),
)

MODEL = "test"


class StepsAdapter:
    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def prepare(self, program: Program) -> None:
        """Nothing to load."""

    async def execute(self, run: Run) -> Mapping[str, Any]:
        answer = ""
        for number in range(run.inputs.get("calls", 1)):
            body = body_of(run.inputs["question"], number, answer)
            digest = hashlib.sha256(json.dumps(body).encode()).hexdigest()
            response = await run.journal.perform(digest, MODEL, partial(self._ask, run, body))
            answer = response["choices"][0]["message"]["content"]
        if run.attempt <= run.inputs.get("fails", 0):
            raise ProgramError(f"attempt {run.attempt} fails, as its inputs say", code="fails")
        if run.stream is not None:
            _write(run.stream.answer(), answer)
        return {"answer": answer}

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _ask(self, run: Run, body: Mapping[str, Any]) -> Answer:
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        url = f"{run.program.module_options['server']}/v1/chat/completions"
        try:
            async with self._session.post(url, json=body) as reply:
                reply.raise_for_status()
                response = await reply.json()
        except aiohttp.ClientError as error:
            raise ModelError(f"{type(error).__name__}: {error}", code="provider_unavailable", retryable=True) from None
        usage = response["usage"]
        return Answer(response, usage["prompt_tokens"], usage["completion_tokens"], cost_usd=0.001)


def _write(streamed: StreamedAnswer, answer: str) -> None:
    """The answer in two pieces, as a model writes it."""
    half = len(answer) // 2
    streamed.text("answer", answer[:half])
    streamed.text("answer", answer[half:])
    streamed.field("answer", answer)


def body_of(question: str, number: int, previous: str) -> dict[str, Any]:
    """The request of call ``number`` (from 0) of a question."""
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": f"{question} (step {number}, after {previous!r})"}],
    }
