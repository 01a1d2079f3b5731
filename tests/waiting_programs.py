"""Programs and tools of tests that wait: for batches, approvals and children."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from pathlib import Path
from typing import Any

import dspy

import dspex

__all__ = ["Asks", "CatchesAll", "Charges", "Desk", "Fickle", "Gathered", "Hides", "Refunds", "RefundsAll", "Steps",
           "SyncSteps", "Threads", "charge", "pay_back", "refund"]  # fmt: skip


@dspex.tool(approve=True)
def refund(order: str) -> str:
    """Refund an order: the path of a file that this makes."""
    Path(order).touch()
    return f"refunded with {dspex.idempotency_key()}"


@dspex.tool(once=True)
def charge(order: str) -> str:
    """Charge for an order: the path of a file that this makes."""
    Path(order).touch()
    return "charged"


@dspex.tool(approve=True, expires=86_400)
def pay_back(order_id: str, cents: int, reason: str) -> str:
    """Pay back a part of an order."""
    return f"paid {cents} cents back for {order_id}: {reason}"


class Steps(dspy.Module):  # type: ignore[misc]
    """Three calls, one after the other."""

    def __init__(self, signature: Any) -> None:
        super().__init__()
        self.steps = [dspy.Predict("question -> topic"), dspy.Predict("question, topic -> plan")]
        self.answer = dspy.Predict(signature)

    async def aforward(self, question: str) -> dspy.Prediction:
        topic = (await self.steps[0].acall(question=question)).topic
        plan = (await self.steps[1].acall(question=question, topic=topic)).plan
        return await self.answer.acall(question=f"{question} {plan}")


class SyncSteps(Steps):
    """The same, synchronous."""

    def __init__(self, signature: Any) -> None:
        super().__init__(signature)

    def forward(self, question: str) -> dspy.Prediction:
        topic = self.steps[0](question=question).topic
        plan = self.steps[1](question=question, topic=topic).plan
        return self.answer(question=f"{question} {plan}")


class Gathered(dspy.Module):  # type: ignore[misc]
    """Three calls at once."""

    def __init__(self, signature: Any) -> None:
        super().__init__()
        self.answer = dspy.Predict(signature)

    async def aforward(self, question: str) -> dspy.Prediction:
        asked = [self.answer.acall(question=f"{question} {number}") for number in range(3)]
        return (await asyncio.gather(*asked))[0]


class Threads(Gathered):
    """Three calls at once, in threads of its own."""

    def __init__(self, signature: Any) -> None:
        super().__init__(signature)

    def forward(self, question: str) -> dspy.Prediction:
        found: dict[int, Any] = {}

        def ask(number: int) -> None:
            with contextlib.suppress(Exception):
                found[number] = self.answer(question=f"{question} {number}")

        threads = [threading.Thread(target=ask, args=[number]) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found[0]


class CatchesAll(Gathered):
    """It goes on after everything that is raised, and returns an answer of its own."""

    def __init__(self, signature: Any) -> None:
        super().__init__(signature)

    async def aforward(self, question: str) -> dspy.Prediction:
        answers = []
        for number in range(3):
            try:
                answers.append(await self.answer.acall(question=f"{question} {number}"))
            except BaseException:
                answers.append(dspy.Prediction(answer="made up"))
        return answers[-1]


class Hides(Gathered):
    """Where its call fails, it returns an answer of its own."""

    def __init__(self, signature: Any) -> None:
        super().__init__(signature)

    async def aforward(self, question: str) -> dspy.Prediction:
        try:
            return await self.answer.acall(question=question)
        except Exception:
            return dspy.Prediction(answer="made up")


class Fickle(Gathered):
    """Its question is a file and a number: in its first so many runs, which the file counts, it asks something else."""

    def __init__(self, signature: Any) -> None:
        super().__init__(signature)

    def forward(self, question: str) -> dspy.Prediction:
        path, most = question.split()
        with Path(path).open("a") as runs:
            runs.write("x")
        return self.answer(question=f"run {min(Path(path).stat().st_size, int(most))}")


class Asks(dspy.Module):  # type: ignore[misc]
    """It has another program answer, so many times at once."""

    def __init__(self, program: str, count: int) -> None:
        super().__init__()
        self.other = dspex.remote(program)
        self.count = count

    async def aforward(self, question: str) -> dspy.Prediction:
        asked = [self.other.acall(question=f"{question} {number}") for number in range(self.count)]
        return dspy.Prediction(answer=" | ".join(found.answer for found in await asyncio.gather(*asked)))


class Charges(dspy.Module):  # type: ignore[misc]
    """Its code calls tools itself."""

    def __init__(self, signature: Any) -> None:
        super().__init__()
        self.answer = dspy.Predict(signature)

    async def aforward(self, question: str) -> dspy.Prediction:
        answer = (await self.answer.acall(question=question)).answer
        return dspy.Prediction(answer=f"{answer}: {charge(question)}")


class Refunds(dspy.Module):  # type: ignore[misc]
    """Its code calls a tool that waits for an approval; no model is asked."""

    def __init__(self, signature: Any) -> None:
        super().__init__()

    async def aforward(self, question: str) -> dspy.Prediction:
        return dspy.Prediction(answer=refund(question))


class RefundsAll(Refunds):
    """Its code makes several such calls at once."""

    def __init__(self, signature: Any) -> None:
        super().__init__(signature)

    async def aforward(self, question: str) -> dspy.Prediction:
        made = [asyncio.to_thread(refund, order) for order in question.split()]
        return dspy.Prediction(answer="; ".join(await asyncio.gather(*made)))


class Desk(dspy.Module):  # type: ignore[misc]
    """It pays back what is asked for, once somebody approves."""

    def __init__(self, signature: Any) -> None:
        super().__init__()

    async def aforward(self, order_id: str, message: str) -> dspy.Prediction:
        return dspy.Prediction(answer=pay_back(order_id=order_id, cents=4900, reason=message))
