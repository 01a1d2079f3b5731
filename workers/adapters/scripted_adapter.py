"""The scripted adapter: deterministic answers, real everything else.

Its calls go through the journal like a model's, so load and crash tests exercise the whole path. Options
(``Program(module_options=...)``):

``sleep_ms``  asynchronous wait of each call, in milliseconds (0); ``[least, most]``: between them, by the inputs
``calls``     how many model calls it makes (1)
``cost_usd``  what each of them costs (0)
``outputs``   a mapping to return; by default an example that depends only on the inputs
``fail``      ``{"code": "provider_unavailable", "times": 2}``: the first attempts fail so, retryably
``die``       ``{"attempt": 1}``: in that attempt, after its calls, its worker process kills itself
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
from collections.abc import Mapping
from typing import Any

from dspex.errors import ModelError
from dspex.program.program import Program
from workers.adapters.contract import Answer, Estimate, Run, StreamedAnswer

__all__ = ["ScriptedAdapter"]

MODEL = "scripted"
PROMPT_TOKENS = 10
COMPLETION_TOKENS = 5


class ScriptedAdapter:
    async def prepare(self, program: Program) -> None:
        """Nothing to load."""

    async def close(self) -> None:
        """Nothing to release."""

    async def execute(self, run: Run) -> Mapping[str, Any]:
        options = run.program.module_options
        # One that makes no calls and has its outputs given does nothing at all.
        seed = 0 if not options.get("calls", 1) and "outputs" in options else _seed(run)
        expected = Estimate(PROMPT_TOKENS + COMPLETION_TOKENS, options.get("cost_usd", 0.0))
        kept = {"inputs": json.loads(_encoded(run))} if run.program.record == "full" else None
        for number in range(options.get("calls", 1)):
            request = hashlib.sha256(f"{seed}:{number}".encode()).hexdigest()
            await run.journal.perform(request, MODEL, lambda: _call(run, seed), estimate=lambda: expected, request=kept)
        if options.get("die", {}).get("attempt") == run.attempt:
            os.kill(os.getpid(), signal.SIGKILL)
        outputs = dict(options["outputs"]) if "outputs" in options else run.program.signature.example(seed).outputs
        if run.stream is not None:
            _publish(run.stream.answer(), outputs)
        return outputs


def _publish(answer: StreamedAnswer, outputs: Mapping[str, Any]) -> None:
    """The outputs as if a model wrote them, each in two pieces."""
    for name, value in outputs.items():
        text = value if isinstance(value, str) else json.dumps(value, default=str)
        half = len(text) // 2
        answer.text(name, text[:half])
        answer.text(name, text[half:])
        answer.field(name, value if isinstance(value, str) else json.loads(text))


async def _call(run: Run, seed: int) -> Answer:
    options = run.program.module_options
    if sleep_ms := options.get("sleep_ms", 0):
        if isinstance(sleep_ms, list):
            least, most = sleep_ms
            sleep_ms = least + seed % (most - least + 1)
        await asyncio.sleep(sleep_ms / 1000)
    fail = options.get("fail", {})
    if run.attempt <= fail.get("times", 0):
        raise ModelError("scripted failure", code=fail.get("code", "provider_unavailable"), retryable=True)
    cost = options.get("cost_usd", 0.0)
    return Answer({"text": "scripted"}, prompt_tokens=PROMPT_TOKENS, completion_tokens=COMPLETION_TOKENS, cost_usd=cost)


def _seed(run: Run) -> int:
    return int.from_bytes(hashlib.sha256(_encoded(run)).digest()[:6])


def _encoded(run: Run) -> bytes:
    return run.program.signature.encode("inputs", dict(run.inputs))
