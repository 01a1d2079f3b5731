"""A metric and optimisers of a user's own, for the tests of optimisations: workers load them by name."""

from __future__ import annotations

import hashlib
import os
import signal
import uuid
from pathlib import Path
from typing import Any

import dspy

__all__ = ["Fickle", "Nosy", "deadly", "graded", "is_right", "silent"]


def graded(example: Any, prediction: Any, trace: Any = None, pred_name: Any = None, pred_trace: Any = None) -> float:
    """Half of the answers are right, as if by chance, and always the same ones."""
    digest = hashlib.sha256(f"{example.question} {prediction.answer}".encode()).digest()
    return float(digest[0] % 2)


def is_right(example: Any, prediction: Any, trace: Any = None, pred_name: Any = None, pred_trace: Any = None) -> bool:
    """Whether the answer is "right"."""
    return bool(prediction.answer == "right")


def silent(example: Any, prediction: Any, trace: Any = None) -> None:
    """Forgets to return its score."""


class Deadly(dspy.Module):  # type: ignore[misc]
    """Ends its worker process when it is asked for the sum of 3 and 3."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict("question -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        if question == "3 and 3 is?":
            os.kill(os.getpid(), signal.SIGKILL)
        return self.answer(question=question)


def deadly() -> Deadly:
    """The module of a program."""
    return Deadly()


class Fickle:
    """Asks something else each time that it runs, and the first time ends its worker after that."""

    def __init__(self, marker: str) -> None:
        self.marker = Path(marker)

    def compile(self, student: Any, *, trainset: Any) -> Any:
        student(question=str(uuid.uuid4()))
        if not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return student


class Nosy:
    """Asks a model that its program does not name."""

    def compile(self, student: Any, *, trainset: Any) -> Any:
        dspy.Predict("question -> answer")(question="?", lm=dspy.LM("openai/elsewhere", api_base="http://127.0.0.1:9"))
        return student
