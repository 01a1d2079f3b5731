"""What executions leave in the memory of a real worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import dspex
from dspex.client.client import Client
from tests.integration.test_execution import scripted
from tests.model_server import ModelServer
from tests.processes import WorkerProcess

QA = dspex.signature("question -> answer")
#: An action that turns the collector off, and counts the objects of executions that are there.
COUNTING = """
import gc
from collections import Counter

OF_EXECUTIONS = {"Attempt", "AttemptJournal", "Supervised", "Run", "RunEngine", "HostedRun", "RunLM", "AsyncRetrying"}

async def count(run, proceed):
    gc.disable()
    await proceed()
    return Counter(name for each in gc.get_objects() if (name := type(each).__name__) in OF_EXECUTIONS)
"""


@pytest.fixture
def model() -> Iterator[ModelServer]:
    with ModelServer() as server:
        yield server


def test_what_an_execution_used_is_freed_without_the_collector(
    client: Client, start_worker: Callable[..., WorkerProcess], model: ModelServer, tmp_path: Path
) -> None:
    (tmp_path / "counting.py").write_text(COUNTING)
    start_worker(DSPEX_PROGRAM_PACKAGES="counting", PYTHONPATH=tmp_path)
    model.script()
    client.deploy(scripted("counted", actions=["counting:count"]))
    for adapter in ("dspy", "direct"):
        client.deploy(dspex.Program(adapter, QA, adapter=adapter, model="openai/test", api_base=model.url))

    def counted() -> dict[str, int]:
        execution = client.submit("counted", {"question": "?"})
        execution.result(timeout=60)
        found: dict[str, int] = execution.action_results["counting:count"]["result"]
        return found

    def run_all(times: int) -> dict[str, int]:
        for number in range(times):
            for name in ("direct", "dspy"):
                client.execute(name, {"question": f"What is the capital of country {number}?"}, timeout=60)
        return counted()

    first = run_all(1)
    assert first["Attempt"] == 1
    assert run_all(5) == first
