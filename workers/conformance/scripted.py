"""The scripted adapter under the suite."""

from __future__ import annotations

from typing import Any

from dspex.program.program import Program
from dspex.signatures import signature
from workers.conformance.suite import AdapterConformance

__all__ = ["TestScripted"]

QA = signature(":string question -> :string answer, :integer(min=0) length")


class TestScripted(AdapterConformance):
    adapter = "scripted"

    def answering(self, **fields: Any) -> Program:
        return Program("qa", QA, adapter="scripted", **fields)

    def hanging(self) -> Program:
        return self.answering(module_options={"sleep_ms": 3_600_000})

    def failing(self) -> tuple[Program, str]:
        return self.answering(module_options={"fail": {"code": "rate_limited", "times": 9}}), "rate_limited"

    def rambling(self) -> Program:
        return self.answering(module_options={"outputs": {"answer": "none", "length": "unknown"}})
