"""Modules of one's own: how they are put together, inherited from, and what they return."""

from __future__ import annotations

import types
from typing import Any

import dspy

from tests.compat.pattern import pattern

QA = "question -> answer"
ASK = {"question": "What is the capital of France?"}


@pattern(QA, ASK)
class Single(dspy.Module):
    def __init__(self) -> None:
        self.ask = dspy.Predict(QA)

    def forward(self, question):
        return self.ask(question=question)


@pattern(QA, ASK)
class Pipeline(dspy.Module):
    def __init__(self) -> None:
        self.topic = dspy.ChainOfThought("question -> topic")
        self.answer = dspy.ChainOfThought("question, topic -> answer")

    def forward(self, question):
        topic = self.topic(question=question).topic
        return self.answer(question=question, topic=topic)


@pattern(QA, ASK)
class NoSuperInit(dspy.Module):
    def __init__(self) -> None:
        self.steps = [dspy.Predict("question -> hint"), dspy.Predict("question, hint -> answer")]

    def forward(self, question):
        hint = self.steps[0](question=question).hint
        return self.steps[1](question=question, hint=hint)


@pattern(QA, ASK)
class DictOfPredictors(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.by_name = {"short": dspy.Predict(QA), "long": dspy.ChainOfThought(QA)}

    def forward(self, question):
        long = self.by_name["long"](question=question).answer
        return self.by_name["short"](question=f"{question} ({long})")


@pattern(QA, ASK)
class Nested(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Pipeline()
        self.check = dspy.Predict("question, answer -> verdict: bool")

    def forward(self, question):
        found = self.inner(question=question)
        verdict = self.check(question=question, answer=found.answer).verdict
        return dspy.Prediction(answer=f"{found.answer} {verdict}")


@pattern(QA, ASK)
class Inherited(Pipeline):
    """Nothing of its own."""


@pattern(QA, ASK)
class SuperForward(Pipeline):
    def forward(self, question):
        found = super().forward(question)
        return dspy.Prediction(answer=found.answer.upper())


@pattern(QA, ASK)
class OverriddenPredict(dspy.Predict):
    """A predictor's subclass that changes what it is asked."""

    def __init__(self) -> None:
        super().__init__(QA)

    def forward(self, **kwargs):
        return super().forward(**{**kwargs, "question": kwargs["question"] + " Answer in one word."})


@pattern(QA, ASK)
class OverriddenChain(dspy.ChainOfThought):
    def __init__(self) -> None:
        super().__init__(QA)

    def forward(self, **kwargs):
        found = super().forward(**kwargs)
        return dspy.Prediction(answer=f"{found.answer}!")


class _Shout:
    def shout(self, text):
        return text.upper()


@pattern(QA, ASK)
class WithMixin(_Shout, dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict(QA)

    def forward(self, question):
        return dspy.Prediction(answer=self.shout(self.ask(question=question).answer))


@pattern(QA, ASK, module_options={"style": "formal", "steps": 2})
class WithOptions(dspy.Module):
    def __init__(self, style, steps=1) -> None:
        super().__init__()
        self.steps = steps
        self.ask = dspy.Predict(dspy.Signature(QA).with_instructions(f"Be {style}."))

    def forward(self, question):
        for _ in range(self.steps):
            found = self.ask(question=question)
            question = found.answer
        return found


@pattern(QA, ASK)
def factory():
    return dspy.ChainOfThought(QA)


@pattern(QA, ASK)
def closure():
    """A factory whose module is made of functions it closes over."""
    ask = dspy.Predict(QA)

    class Inner(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ask = ask

        def forward(self, question):
            return ask(question=question)

    return Inner()


@pattern(QA, ASK)
def bound_forward():
    """``forward`` is put on the instance, as DSPy's own helpers do."""
    module = dspy.ChainOfThought(QA)
    plain = module.forward

    def forward(self, **kwargs):
        return plain(**{**kwargs, "question": kwargs["question"] + "?"})

    module.forward = types.MethodType(forward, module)
    return module


@pattern("ticket -> team", {"ticket": "My card was charged twice."}, answers={"topic": "billing"})
class Router(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.topic = dspy.Predict("ticket -> topic")
        self.teams = {"billing": dspy.Predict("ticket -> team"), "other": dspy.ChainOfThought("ticket -> team")}

    def forward(self, ticket):
        topic = self.topic(ticket=ticket).topic
        return self.teams.get(topic, self.teams["other"])(ticket=ticket)


@pattern(QA, ASK)
class Loop(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hop = dspy.ChainOfThought("question, notes: list[str] -> query")
        self.answer = dspy.ChainOfThought("question, notes: list[str] -> answer")

    def forward(self, question):
        notes: list[str] = []
        for _ in range(3):
            notes.append(self.hop(question=question, notes=notes).query)
        return self.answer(question=question, notes=notes)


@pattern(QA, ASK)
class KeywordInputs(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict(QA)

    def forward(self, **inputs):
        return self.ask(**inputs)


@pattern("question, style: str | None -> answer", ASK)
class OptionalInput(dspy.Module):
    """An input that is left out keeps the default of ``forward``."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("question, style -> answer")

    def forward(self, question, style="plain"):
        return self.ask(question=question, style=style)


@pattern(QA, ASK)
class ReturnsMapping(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict(QA)

    def forward(self, question):
        return {"answer": self.ask(question=question).answer}


@pattern(QA, ASK)
class ReturnsText(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict(QA)

    def forward(self, question):
        return self.ask(question=question).answer


@pattern("question -> words: list[str]", ASK)
class ReturnsList(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict(QA)

    def forward(self, question):
        return self.ask(question=question).answer.split()


@pattern(QA, ASK)
class ExtraOutputs(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.ChainOfThought("question -> answer, confidence: float")

    def forward(self, question):
        return self.ask(question=question)


@pattern(QA, ASK)
class Stateful(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.ask = dspy.Predict(QA)

    def forward(self, question):
        self.seen.append(question)
        return dspy.Prediction(answer=f"{self.ask(question=question).answer} {len(self.seen)}")


@pattern(QA, ASK)
class WithDemos(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.ChainOfThought(QA)
        self.ask.predict.demos = [
            dspy.Example(question="1+1?", reasoning="Count.", answer="2").with_inputs("question"),
            dspy.Example(question="2+2?", answer="4", augmented=True).with_inputs("question"),
        ]

    def forward(self, question):
        return self.ask(question=question)


@pattern(QA, ASK)
class Instructions(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        signature = dspy.Signature(QA).append("source", dspy.OutputField(desc="where from"), type_=str)
        self.ask = dspy.Predict(signature.with_instructions("Cite a source."))

    def forward(self, question):
        found = self.ask(question=question)
        return dspy.Prediction(answer=f"{found.answer} [{found.source}]")


@pattern("question -> answers: list[str]", ASK)
class SeveralCompletions(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict(QA, n=3)

    def forward(self, question):
        return dspy.Prediction(answers=self.ask(question=question).completions.answer)


@pattern(QA, ASK)
class Positional(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Single()

    def forward(self, question):
        return self.inner(question)


@pattern(QA, ASK)
class Raises(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict(QA)

    def forward(self, question):
        return {}[self.ask(question=question).answer]


@pattern("question, config -> answer", {**ASK, "config": "short"})
class KeptName(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("question, style -> answer")

    def forward(self, question, config):
        return self.ask(question=question, style=config)


@pattern(QA, ASK)
class NamedPredictors(dspy.Module):
    """It walks its own parts, as optimisers do."""

    def __init__(self) -> None:
        super().__init__()
        self.first = dspy.Predict("question -> hint")
        self.second = dspy.Predict("question, hint -> answer")

    def forward(self, question):
        names = [name for name, _ in self.named_predictors()]
        hint = self.first(question=question).hint
        return dspy.Prediction(answer=f"{self.second(question=question, hint=hint).answer} {names}")


@pattern(QA, ASK)
class DeepCopied(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.ChainOfThought(QA)

    def forward(self, question):
        copy = self.ask.deepcopy()
        copy.predict.signature = copy.predict.signature.with_instructions("Once more.")
        return copy(question=question)


@pattern(QA, ASK)
class CatchesErrors(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.strict = dspy.Predict("question -> amount: int")
        self.ask = dspy.Predict(QA)

    def forward(self, question):
        try:
            amount: Any = self.strict(question=question).amount
        except Exception:
            amount = "none"
        return self.ask(question=f"{question} {amount}")


@pattern(QA, ASK)
class Memo(dspy.Module):
    """The same request twice, without a cache."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict(QA)

    def forward(self, question):
        first, second = (self.ask(question=question).answer for _ in range(2))
        return dspy.Prediction(answer=f"{first} {second}")


@pattern(QA, ASK)
class FailsInsideDspy(dspy.Module):
    """Plain DSPy fails, too."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict(QA)

    def forward(self, question):
        return self.ask(question)


class Rating(dspy.Signature):
    """Rate it."""

    question: str = dspy.InputField()
    stars: int = dspy.OutputField(ge=1, le=5)


@pattern(Rating, ASK, answers={"stars": 4})
class ReturnsTooMuch(dspy.Module):
    """The signature's limits are not those of the code: plain DSPy has no limits here."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = dspy.Predict(Rating)

    def forward(self, question):
        return dspy.Prediction(stars=self.rate(question=question).stars * 4)


@pattern(Rating, ASK, answers={"stars": 16})
class ModelSaysTooMuch(dspy.Module):
    """DSPy checks no limits; DSPex asks again."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = dspy.Predict(Rating)

    def forward(self, question):
        return self.rate(question=question)
