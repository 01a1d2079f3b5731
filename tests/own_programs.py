"""A user's package of programs, as a worker finds it: modules, tools and rewards of tests."""

from __future__ import annotations

import asyncio
from os import system
from typing import Any

import dspy

import dspex

__all__ = [
    "Counting",
    "Lookup",
    "Support",
    "broken_factory",
    "capitals",
    "concise",
    "look_up",
    "no_module",
    "photograph",
    "refuse",
    "system",
    "weather",
]

CAPITALS = {"France": "Paris", "Italy": "Rome"}


def look_up(country: str) -> str:
    """The capital of a country."""
    return CAPITALS[country]


async def weather(city: str) -> dict[str, Any]:
    """The weather in a city."""
    await asyncio.sleep(0)
    return {"city": city, "degrees": 20}


def photograph(caption: str) -> dict[str, Any]:
    """An image, and its caption."""
    return {"image": dspy.Image("https://example.com/a.png"), "caption": caption, "words": [caption]}


def refuse(reason: str) -> str:
    """Raises."""
    raise ValueError(f"refused: {reason}")


def concise(inputs: Any, prediction: Any) -> float:
    """1 for an answer of one word, less for longer ones."""
    return 1 / len(prediction.answer.split())


class Support(dspy.Module):  # type: ignore[misc]
    """Two predictors: what the question is about, and the answer, in the program's own signature."""

    def __init__(self, signature: Any, style: str = "plain") -> None:
        super().__init__()
        self.topic = dspy.Predict("question -> topic")
        self.answer = dspy.ChainOfThought(signature.with_instructions(f"Answer in {style} words."))

    async def aforward(self, question: str) -> Any:
        topic = (await self.topic.acall(question=question)).topic
        return await self.answer.acall(question=f"{topic}: {question}")


class Counting(dspy.Module):  # type: ignore[misc]
    """Synchronous, and it keeps something of each call on itself."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.ask = dspy.Predict("question -> answer")

    def forward(self, question: str) -> dict[str, Any]:
        self.calls += 1
        return {"answer": f"{self.ask(question=question).answer} {self.calls}"}


def broken_factory() -> Any:
    raise RuntimeError("a secret text")


def no_module() -> Any:
    return "not a module"


LOADED: list[str] = []


@dspex.setup
def capitals() -> dict[str, str]:
    """What is heavy: loaded once in each process."""
    LOADED.append("capitals")
    return dict(CAPITALS)


class Lookup(dspy.Module):  # type: ignore[misc]
    """It needs what was loaded, and gives more than its output."""

    def forward(self, question: str) -> dict[str, Any]:
        return {"answer": capitals()["France"], "sources": ["atlas"], "loaded": len(LOADED), "handle": object()}
