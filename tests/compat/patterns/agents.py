"""Agents: ReAct and its kin, their tools, and code that the model writes."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import functools
import io
from typing import Any

import dspy
from pydantic import BaseModel

from tests.compat.pattern import pattern

QA = "question -> answer"
ASK = {"question": "How warm is Paris?"}
STEPS = (("weather", {"city": "Paris"}), ("finish", {}))


def weather(city: str) -> str:
    """The weather of a city."""
    return f"{len(city)} degrees in {city}"


async def slow_weather(city: str) -> str:
    """The weather of a city, awaited."""
    await asyncio.sleep(0)
    return weather(city)


def broken(city: str) -> str:
    """Never works."""
    raise ValueError(f"no weather for {city}")


class Place(BaseModel):
    city: str
    country: str = "France"


def at(place: Place) -> str:
    """The weather of a place."""
    return f"{place.city} in {place.country}"


@pattern(QA, ASK, steps=STEPS)
def react():
    return dspy.ReAct(QA, tools=[weather], max_iters=3)


@pattern(QA, ASK, steps=STEPS)
class ReactInside(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.agent = dspy.ReAct(QA, tools=[weather], max_iters=3)
        self.polish = dspy.Predict("draft -> answer")

    def forward(self, question):
        return self.polish(draft=self.agent(question=question).answer)


@pattern(QA, ASK, steps=(("slow_weather", {"city": "Paris"}), ("finish", {})))
class ReactAsyncTools(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.agent = dspy.ReAct(QA, tools=[slow_weather], max_iters=3)

    async def aforward(self, question):
        return await self.agent.acall(question=question)


@pattern(QA, ASK, steps=STEPS)
class ReactSyncToolsAwaited(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.agent = dspy.ReAct(QA, tools=[weather], max_iters=3)

    async def aforward(self, question):
        return await self.agent.acall(question=question)


@pattern(QA, ASK, steps=(("weather", {"city": "Paris"}), ("weather", {"city": "Lyon"}), ("finish", {})))
def react_twice():
    return dspy.ReAct(QA, tools=[weather], max_iters=5)


@pattern(QA, ASK, steps=(("weather", {"city": "Paris"}),))
def react_without_end():
    return dspy.ReAct(QA, tools=[weather], max_iters=2)


@pattern(QA, ASK, steps=(("temperature", {"where": "Paris"}), ("finish", {})))
def react_dspy_tool():
    tool = dspy.Tool(
        lambda where: weather(city=where),
        name="temperature",
        desc="How warm it is.",
        args={"where": {"type": "string"}},
    )
    return dspy.ReAct(QA, tools=[tool])


@pattern(QA, ASK, steps=(("at", {"place": {"city": "Paris"}}), ("finish", {})))
def react_model_argument():
    return dspy.ReAct(QA, tools=[at])


class _Service:
    def __init__(self, unit: str) -> None:
        self.unit = unit

    def degrees(self, city: str) -> str:
        """How warm a city is."""
        return f"{len(city)} {self.unit}"


@pattern(QA, ASK, steps=(("degrees", {"city": "Paris"}), ("finish", {})))
def react_method():
    return dspy.ReAct(QA, tools=[_Service("C").degrees])


@pattern(QA, ASK, steps=(("partial", {"city": "Paris"}), ("finish", {})))
def react_partial():
    def degrees(city: str, unit: str) -> str:
        return f"{len(city)} {unit}"

    return dspy.ReAct(QA, tools=[dspy.Tool(functools.partial(degrees, unit="F"), name="partial", desc="Warmth.")])


@pattern(QA, ASK, steps=STEPS)
class OwnReact(dspy.ReAct):
    def __init__(self) -> None:
        super().__init__(QA, tools=[weather], max_iters=3)

    def forward(self, **inputs):
        found = super().forward(**inputs)
        return dspy.Prediction(answer=f"{found.answer} after {len(found.trajectory) // 4} steps")


@pattern(QA, ASK, steps=(("expert", {"topic": "Paris"}), ("finish", {})))
class SubAgent(dspy.Module):
    """A tool that asks the model itself."""

    def __init__(self) -> None:
        super().__init__()
        self.expert = dspy.ChainOfThought("topic -> opinion")

        def expert(topic: str) -> str:
            """An expert's opinion."""
            return self.expert(topic=topic).opinion

        self.agent = dspy.ReAct(QA, tools=[expert], max_iters=3)

    def forward(self, question):
        return self.agent(question=question)


@pattern(QA, ASK, steps=(("expert", {"topic": "Paris"}), ("finish", {})))
class SubAgentAwaited(SubAgent):
    async def aforward(self, question):
        return await self.agent.acall(question=question)


@pattern(QA, ASK)
class ToolCalled(dspy.Module):
    """A tool called by the program rather than by the model."""

    def __init__(self) -> None:
        super().__init__()
        self.tool = dspy.Tool(weather)
        self.ask = dspy.Predict("question, facts -> answer")

    def forward(self, question):
        return self.ask(question=question, facts=self.tool(city="Paris"))


@pattern(QA, ASK)
class AsyncToolCalled(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tool = dspy.Tool(slow_weather)
        self.ask = dspy.Predict("question, facts -> answer")

    def forward(self, question):
        with dspy.context(allow_tool_async_sync_conversion=True):
            return self.ask(question=question, facts=self.tool(city="Paris"))


@pattern(QA, ASK)
class ToolRaises(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tool = dspy.Tool(broken)
        self.ask = dspy.Predict("question, facts -> answer")

    def forward(self, question):
        try:
            facts = self.tool(city="Paris")
        except ValueError as error:
            facts = str(error)
        return self.ask(question=question, facts=facts)


class _ToolSignature(dspy.Signature):
    """Choose tools."""

    question: str = dspy.InputField()
    tools: list[dspy.Tool] = dspy.InputField()
    outputs: dspy.ToolCalls = dspy.OutputField()


@pattern(QA, ASK, steps=(("weather", {"city": "Paris"}),))
class NativeCalls(dspy.Module):
    """Native function calling, with the calls made by the program."""

    def __init__(self) -> None:
        super().__init__()
        self.choose = dspy.Predict(_ToolSignature)
        self.tools = {"weather": dspy.Tool(weather)}

    def forward(self, question):
        with dspy.context(adapter=dspy.ChatAdapter(use_native_function_calling=True)):
            chosen = self.choose(question=question, tools=list(self.tools.values()))
        results = [self.tools[call.name](**call.args) for call in chosen.outputs.tool_calls]
        return dspy.Prediction(answer="; ".join(results))


@pattern(QA, ASK, answers={"outputs": {"tool_calls": [{"name": "weather", "args": {"city": "Paris"}}]}})
class TextCalls(NativeCalls):
    """The same without native function calling."""

    def forward(self, question):
        chosen = self.choose(question=question, tools=list(self.tools.values()))
        return dspy.Prediction(
            answer="; ".join(call.execute(functions={"weather": weather}) for call in chosen.outputs.tool_calls)
        )


@pattern(QA, ASK, answers={"outputs": {"tool_calls": [{"name": "submit", "args": {"answer": "warm"}}]},
                           "next_tool_calls": {"tool_calls": [{"name": "submit", "args": {"answer": "warm"}}]},
                           "tool_calls": {"tool_calls": [{"name": "submit", "args": {"answer": "warm"}}]}})  # fmt: skip
def react_v2():
    return dspy.ReActV2(QA, tools=[weather], max_iters=2)


class LocalInterpreter:
    """An interpreter in this process, for tests: the code is the test's own."""

    def __init__(self) -> None:
        self.tools: dict[str, Any] = {}
        self._names: dict[str, Any] = {}

    def start(self) -> None:
        """Nothing to start."""

    def execute(self, code: str, variables: dict[str, Any] | None = None) -> Any:
        self._names |= {**self.tools, **(variables or {})}
        written = io.StringIO()
        with contextlib.redirect_stdout(written):
            exec(code, self._names)
        return written.getvalue().strip()

    def shutdown(self) -> None:
        """Nothing to shut down."""


CODE = {"generated_code": "```python\nprint(6 * 7)\n```", "finished": True}


@pattern(QA, ASK, answers=CODE)
def program_of_thought():
    return dspy.ProgramOfThought(QA, max_iters=2, interpreter_factory=LocalInterpreter)


@pattern(QA, ASK, answers=CODE)
def code_act():
    return dspy.CodeAct(QA, tools=[weather], max_iters=2, interpreter_factory=LocalInterpreter)


@pattern(QA, ASK, answers=CODE)
class CodeActInside(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act = dspy.CodeAct(QA, tools=[weather], max_iters=2, interpreter_factory=LocalInterpreter)

    def forward(self, question):
        return self.act(question=question)


class SubmittingInterpreter(LocalInterpreter):
    """It submits whatever the code of an RLM prints."""

    def execute(self, code: str, variables: dict[str, Any] | None = None) -> Any:
        from dspy.primitives.code_interpreter import FinalOutput

        printed = super().execute(code, variables)
        return FinalOutput({"answer": str(printed)}) if "llm_query" in self.tools else printed


@pattern(QA, ASK, answers={"code": "print(len(question))", "reasoning": "Count."})
def rlm():
    return dspy.RLM(QA, max_iters=2, interpreter_factory=SubmittingInterpreter)


@pattern(QA, ASK, answers={"code": "print(llm_query('How many?'))", "reasoning": "Ask."})
def rlm_queries():
    """The code asks the model."""
    return dspy.RLM(QA, max_iters=2, interpreter_factory=SubmittingInterpreter)


BOOKED: list[str] = []


def book(city: str) -> str:
    """Book a trip."""
    BOOKED.append(city)
    return f"trip {len(BOOKED)} to {city}"


@pattern(QA, ASK, steps=(("book", {"city": "Paris"}), ("finish", {})))
def booking_agent():
    return dspy.ReAct(QA, tools=[book], max_iters=3)


class Trip(BaseModel):
    number: int
    place: Place
    day: datetime.date


def book_trip(place: Place) -> tuple[str, Trip]:
    """Book a trip to a place."""
    BOOKED.append(place.city)
    return "booked", Trip(number=len(BOOKED), place=place, day=datetime.date(2026, 5, 1))


@pattern(QA, ASK, steps=(("book_trip", {"place": {"city": "Paris"}}), ("finish", {})))
class RecordsOfTools(dspy.Module):
    """The program reads what the tool returned as the class that it is."""

    def __init__(self) -> None:
        super().__init__()
        self.agent = dspy.ReAct(QA, tools=[book_trip], max_iters=3)

    def forward(self, question):
        found = self.agent(question=question)
        _, trip = found.trajectory["observation_0"]
        return dspy.Prediction(answer=f"{found.answer}: {trip.place.country} on {trip.day:%A}")


@pattern(QA, ASK, steps=(("broken", {"city": "Paris"}), ("finish", {})))
class BrokenTool(dspy.Module):
    """The agent shows the model what a tool raised, with DSPy's traceback."""

    def __init__(self) -> None:
        super().__init__()
        self.agent = dspy.ReAct(QA, tools=[broken], max_iters=3)

    def forward(self, question):
        return self.agent(question=question)


@pattern(QA, ASK, steps=(("broken", {"city": "Paris"}), ("finish", {})))
class BrokenToolAwaited(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.agent = dspy.ReAct(QA, tools=[broken], max_iters=3)

    async def aforward(self, question):
        return await self.agent.acall(question=question)


async def broken_later(city: str) -> str:
    """Never works, awaited."""
    await asyncio.sleep(0)
    return broken(city)


@pattern(QA, ASK, steps=(("broken_later", {"city": "Paris"}), ("finish", {})))
class BrokenAsyncTool(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.agent = dspy.ReAct(QA, tools=[broken_later], max_iters=3)

    async def aforward(self, question):
        return await self.agent.acall(question=question)
