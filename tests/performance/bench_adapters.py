"""What hosting costs by adapter: memory, CPU to get ready, and CPU per execution, each in a process of its own.

``python -m tests.performance.bench_adapters`` prints a table; :func:`measure` gives the figures. Runs have a worker's
own journal and trail, stored nowhere, and a model server in another process that answers at once: what is measured
is the adapter and the engine under it, without claim and settlement.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import psutil

from dspex.program.program import Program
from dspex.signatures import signature
from dspex.store.lifecycle.lm_calls import LMCall
from workers.adapters import Adapters
from workers.adapters.contract import Run
from workers.attempt.attempt_trail import AttemptTrail
from workers.lm.journal import AttemptJournal
from workers.lm.model_calls import ModelCalls

__all__ = ["measure"]

AT_ONCE = 50
#: Adapter and prompt, by what the table calls them.
CASES: dict[str, dict[str, Any]] = {
    "direct": {"adapter": "direct"},
    "dspy (compact prompt)": {"adapter": "dspy", "prompt": "compact"},
    "dspy (chat prompt)": {"adapter": "dspy", "prompt": "chat"},
}


def measure(executions: int = 2_000, repeats: int = 3) -> dict[str, dict[str, float]]:
    """By case: ``ready_mb``, ``ready_cpu_seconds``, ``after_mb`` and ``cpu_ms`` per execution; medians of repeats,
    which alternate. ``spread_ms`` is the distance between the largest and the smallest ``cpu_ms``."""
    found: dict[str, list[dict[str, float]]] = {case: [] for case in CASES}
    with _model() as url:
        for _ in range(repeats):
            for case in CASES:
                own = [sys.executable, "-m", __spec__.name, "--case", case, url, str(executions)]
                done = subprocess.run(own, check=True, capture_output=True, text=True)
                found[case].append(json.loads(done.stdout))
    return {case: _summary(runs) for case, runs in found.items()}


def _summary(runs: list[dict[str, float]]) -> dict[str, float]:
    medians = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    cpu = [run["cpu_ms"] for run in runs]
    return {**medians, "spread_ms": max(cpu) - min(cpu)}


@contextmanager
def _model() -> Iterator[str]:
    command = [sys.executable, "-m", "tests.performance.bench.model"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield f"{server.stdout.readline().strip()}/0/v1"
        finally:
            server.kill()


async def _one(case: str, url: str, executions: int) -> dict[str, float]:
    process = psutil.Process()
    program = Program(
        "qa", signature("question -> answer"), model="openai/fake", api_base=url, journal=False, **CASES[case]
    )
    began = time.process_time()
    adapters = Adapters()
    adapter = await adapters.get(program.adapters[0])
    await adapter.prepare(program)
    ready_cpu_seconds, ready_mb = time.process_time() - began, process.memory_info().rss / 1e6
    numbers = iter(range(executions + AT_ONCE))

    async def user() -> None:
        for number in numbers:
            run = _run(program, f"What is question number {number} about?")
            program.signature.check_outputs(await adapter.execute(run))

    await adapter.execute(_run(program, "Is the connection open?"))
    began = time.process_time()
    await asyncio.gather(*(user() for _ in range(AT_ONCE)))
    cpu_ms = (time.process_time() - began) * 1000 / (executions + AT_ONCE)
    after_mb = process.memory_info().rss / 1e6
    await adapters.close()
    return {
        "ready_mb": ready_mb, "ready_cpu_seconds": ready_cpu_seconds, "after_mb": after_mb, "cpu_ms": cpu_ms,
    }  # fmt: skip


class _Nowhere:
    """Where these calls are kept."""

    async def store_call(self, call: LMCall) -> None:
        """Nowhere."""

    async def reject_calls(self, execution_id: UUID, attempt: int, request_hashes: Sequence[bytes]) -> None:
        """There are none."""

    async def earlier_use(self, execution_id: UUID, attempt: int) -> Sequence[LMCall]:
        """There were none."""
        return ()


def _run(program: Program, question: str) -> Run:
    id, trail = uuid4(), AttemptTrail(datetime.now(UTC))
    calls = ModelCalls(AttemptJournal(id, 1, _Nowhere()), trail)
    return Run(id, 1, program, {"question": question}, calls, trail)


def main() -> None:
    if sys.argv[1:2] == ["--case"]:
        case, url, executions = sys.argv[2:]
        print(json.dumps(asyncio.run(_one(case, url, int(executions)))))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None)
    for column in ("adapter", "ready, MB", "ready, CPU s", "after, MB", "CPU ms an execution", "spread, ms"):
        table.add_column(column)
    for case, it in measure().items():
        table.add_row(
            case, f"{it['ready_mb']:.0f}", f"{it['ready_cpu_seconds']:.1f}", f"{it['after_mb']:.0f}",
            f"{it['cpu_ms']:.2f}", f"{it['spread_ms']:.2f}",
        )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main()
