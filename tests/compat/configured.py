"""A package that configures DSPy when it is imported, as many do."""

from __future__ import annotations

from typing import Any

import dspy

dspy.configure(lm=dspy.LM("openai/another-model", api_key="sk-not-used"), adapter=dspy.JSONAdapter())


class First(dspy.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("question -> answer")

    def forward(self, question: str) -> Any:
        return self.ask(question=question)


class Second(First):
    """Another program of the package, which is imported already."""
