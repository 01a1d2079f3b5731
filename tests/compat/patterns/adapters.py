"""Adapters: DSPy's, chosen by the program, and a program's own."""

from __future__ import annotations

from typing import Any

import dspy
from dspy.adapters.baml_adapter import BAMLAdapter

import dspex
from tests.compat.pattern import pattern
from tests.compat.patterns.models import lm
from tests.compat.patterns.values import ADA, BOB, Person

QA = "question -> answer"
ASK = {"question": "What is the capital of France?"}
TEXT = {"text": "Ada, 36, likes maths. Bob likes cats."}
PEOPLE = {"people": [ADA, BOB]}


class Extract(dspy.Signature):
    """Extract people."""

    text: str = dspy.InputField()
    people: list[Person] = dspy.OutputField()


class _Adapted(dspy.Module):
    adapter: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.ChainOfThought("question -> answer, score: float, is_known: bool")

    def forward(self, question):
        with dspy.context(adapter=type(self).adapter):
            return self.ask(question=question)


class _Extracting(_Adapted):
    def __init__(self) -> None:
        super().__init__()
        self.extract = dspy.Predict(Extract)

    def forward(self, text):
        with dspy.context(adapter=type(self).adapter):
            return self.extract(text=text)


@pattern(QA, ASK)
class Xml(_Adapted):
    adapter = dspy.XMLAdapter()


@pattern(Extract, TEXT, answers=PEOPLE)
class XmlNested(_Extracting):
    adapter = dspy.XMLAdapter()


@pattern(QA, ASK)
class Json(_Adapted):
    adapter = dspy.JSONAdapter()


@pattern(Extract, TEXT, answers=PEOPLE)
class JsonNested(_Extracting):
    adapter = dspy.JSONAdapter()


@pattern(QA, ASK)
class Baml(_Adapted):
    adapter = BAMLAdapter()


@pattern(Extract, TEXT, answers=PEOPLE)
class BamlNested(_Extracting):
    adapter = BAMLAdapter()


@pattern(QA, ASK)
class Chat(_Adapted):
    adapter = dspy.ChatAdapter()


@pattern(Extract, TEXT, answers=PEOPLE)
class ChatNested(_Extracting):
    adapter = dspy.ChatAdapter()


@pattern(QA, ASK)
class ChatWithoutFallback(_Adapted):
    adapter = dspy.ChatAdapter(use_json_adapter_fallback=False)


@pattern(QA, ASK)
class TwoStep(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("question -> answer, score: float")

    def forward(self, question):
        with dspy.context(adapter=dspy.TwoStepAdapter(lm())):
            return self.ask(question=question)


class Terse(dspy.ChatAdapter):
    """An adapter of one's own: another way to write the inputs."""

    def format_user_message_content(self, signature, inputs, prefix="", suffix="", main_request=False):
        return "INPUT\n" + super().format_user_message_content(signature, inputs, prefix, suffix, main_request)


class Plain(dspy.Adapter):
    """An adapter from the ground up."""

    def format(self, signature, demos, inputs):
        text = "\n".join(f"{name}: {value}" for name, value in inputs.items())
        return [{"role": "user", "content": f"{signature.instructions}\n{text}"}]

    def parse(self, signature, completion):
        return dict.fromkeys(signature.output_fields, completion)


@pattern(QA, ASK)
class OwnChatAdapter(_Adapted):
    adapter = Terse()


@pattern(QA, ASK)
class OwnAdapter(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict(QA)

    def forward(self, question):
        with dspy.context(adapter=Plain()):
            return self.ask(question=question)


@pattern(QA, ASK, adapter=dspy.XMLAdapter, prompt="xml")
class ProgramXml(_Adapted):
    """The adapter is the program's setting."""

    def forward(self, question):
        return self.ask(question=question)


@pattern(QA, ASK, adapter=dspy.JSONAdapter, prompt="json")
class ProgramJson(ProgramXml):
    """The same as JSON."""


@pattern(Extract, TEXT, answers=PEOPLE, adapter=dspy.JSONAdapter, prompt="json")
class ProgramJsonNested(_Extracting):
    def forward(self, text):
        return self.extract(text=text)


@pattern(Extract, TEXT, answers=PEOPLE, adapter=dspy.XMLAdapter, prompt="xml")
class ProgramXmlNested(ProgramJsonNested):
    """The same as XML."""


@pattern(Extract, TEXT, answers=PEOPLE, adapter=BAMLAdapter, prompt="baml")
class ProgramBaml(ProgramJsonNested):
    """The same with BAML's schemas."""


@pattern(QA, ASK, adapter=Terse, prompt="tests.compat.patterns.adapters:Terse")
class ProgramOwnAdapter(ProgramXml):
    """An adapter of one's own, by name."""


@pattern(QA, ASK, answers={"": "no sections at all"})
class FallsBackToJson(_Adapted):
    """An answer without sections is asked for again."""

    adapter = dspy.ChatAdapter()

    def forward(self, question):
        return dspy.Prediction(answer=super().forward(question).answer[:6])


@pattern(QA, ASK)
class Mixed(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.draft = dspy.Predict("question -> draft")
        self.answer = dspy.Predict("draft -> answer")

    def forward(self, question):
        with dspy.context(adapter=dspy.JSONAdapter()):
            draft = self.draft(question=question).draft
        return self.answer(draft=draft)


@pattern(
    "question -> answer, score: float",
    ASK,
    adapter=lambda: dspy.TwoStepAdapter(lm()),
    prompt="two_step",
    models={"extraction": dspex.Model("openai/gpt-4.1-mini", api_base="COMPAT")},
)
class ProgramTwoStep(dspy.Module):
    """Two steps, by the program's setting."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("question -> answer, score: float")

    def forward(self, question):
        return self.ask(question=question)
