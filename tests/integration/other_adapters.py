"""Third parties' adapters, found by their entry points in ``tests/integration/plugin``."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from typing import Any

import psutil

from dspex.errors import ModelError
from dspex.program.adapters import AdapterInfo, Capabilities
from dspex.program.program import Program
from workers.adapters.contract import Answer, Run

__all__ = ["ABSENT", "LOADED", "STUBBORN", "Loaded", "Stubborn"]

_PREDICT = Capabilities(modules=frozenset({"predict"}), calls_models=False)
STUBBORN = AdapterInfo("stubborn", "Pays for an answer, and fails", f"{__name__}:Stubborn", _PREDICT)
LOADED = AdapterInfo("loaded", "Tells what its process has loaded", f"{__name__}:Loaded", _PREDICT)
ABSENT = AdapterInfo("absent", "Is not here", "a_package_that_is_not_here:Adapter", _PREDICT, install="absent-adapter")


class _Plain:
    async def prepare(self, program: Program) -> None:
        """Nothing to load."""

    async def close(self) -> None:
        """Nothing to release."""


class Stubborn(_Plain):
    """Fails with the code that the question begins with, once it has an answer."""

    async def execute(self, run: Run) -> Mapping[str, Any]:
        question = run.inputs["question"]
        await run.journal.perform(hashlib.sha256(question.encode()).hexdigest(), "stubborn", _answer)
        code = question.partition(":")[0]
        if code == "output_invalid":
            return {"answer": 5.5, "unasked": True}
        raise ModelError("not me", code=code, retryable=code == "output_unparseable")


class Loaded(_Plain):
    async def execute(self, run: Run) -> Mapping[str, Any]:
        return {
            "modules": sorted({name.partition(".")[0] for name in list(sys.modules)}),
            "memory_mb": psutil.Process().memory_info().rss / 1e6,
        }


async def _answer() -> Answer:
    return Answer({"text": "of no use"}, prompt_tokens=10)
