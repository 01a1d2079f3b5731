"""The adapters that come with DSPex pass the conformance suite that third parties' are held to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from dspex.program.modules import runs_code
from dspex.program.program import Program
from dspex.signatures import signature
from tests.model_server import ModelServer, Step
from workers.conformance import AdapterConformance
from workers.conformance.scripted import TestScripted

__all__ = ["TestDirect", "TestDspy", "TestScripted"]

QA = signature(":string question -> :string answer, :integer(min=0) length")
EVER = 10**9


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    """A server of several models, each with its own way."""
    with ModelServer() as running:
        running.script(
            Step(match="silent-model", fault="hang", times=EVER),
            Step(match="refusing-model", status=401, times=EVER),
            Step(match="rambling-model", content="I would rather not say.", times=EVER),
        )
        yield running


class _WithServer(AdapterConformance):
    """An adapter that asks a model over HTTP."""

    @pytest.fixture(autouse=True)
    def _server(self, server: ModelServer) -> None:
        self.server = server

    def answering(self, **fields: Any) -> Program:
        given: dict[str, Any] = {"model": "openai/test", "api_base": self.server.url, **fields}
        return Program("qa", QA, adapter=self.adapter, **given)

    def hanging(self) -> Program:
        return self.answering(model="openai/silent-model")

    def failing(self) -> tuple[Program, str]:
        return self.answering(model="openai/refusing-model"), "authentication"

    def rambling(self) -> Program:
        return self.answering(model="openai/rambling-model")


@pytest.mark.filterwarnings("ignore::DeprecationWarning:dspy")  # dspy's own modules use what it deprecates
class TestDspy(_WithServer):
    adapter = "dspy"

    @pytest.fixture(autouse=True)
    def _allowed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DSPEX_PROGRAM_PACKAGES", "tests.own_programs")

    def fields_for(self, module: str) -> Mapping[str, Any] | None:
        rewarded = {"n": 1, "threshold": 0.0, "reward": "tests.own_programs:concise"}
        needed: dict[str, dict[str, Any]] = {
            "best_of_n": {"module_options": rewarded},
            "refine": {"module_options": rewarded},
            "react": {"module_options": {"max_iters": 1}, "tools": ["tests.own_programs:look_up"]},
        }
        # Deno is needed, a model that calls tools, or a dataset and a metric.
        if runs_code(module) or module in {"react_v2", "optimizer"}:
            return None
        return needed.get(module, {})


class TestDirect(_WithServer):
    adapter = "direct"
