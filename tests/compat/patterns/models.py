"""Language models and settings that a program chooses itself."""

from __future__ import annotations

import io
import os

import dspy

import dspex
from tests.compat.pattern import pattern

QA = "question -> answer"
ASK = {"question": "What is the capital of France?"}


def lm(model="openai/gpt-4.1-mini", **kwargs):
    return dspy.LM(
        model, api_base=os.environ["COMPAT_API_BASE"], api_key=os.environ["OPENAI_API_KEY"], cache=False, **kwargs
    )


class _Asking(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict(QA)


@pattern(QA, ASK)
class ContextLm(_Asking):
    def forward(self, question):
        with dspy.context(lm=lm()):
            hint = self.ask(question=question).answer
        return self.ask(question=f"{question} {hint}")


@pattern(QA, ASK)
class ContextLmAsync(_Asking):
    async def aforward(self, question):
        with dspy.context(lm=lm()):
            return await self.ask.acall(question=question)


@pattern(QA, ASK)
class SetLm(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.draft = dspy.Predict("question -> draft")
        self.judge = dspy.Predict("question, draft -> answer")
        self.judge.set_lm(lm(temperature=0.3))

    def forward(self, question):
        return self.judge(question=question, draft=self.draft(question=question).draft)


@pattern("question -> answers: list[str]", ASK)
class LmEnsemble(_Asking):
    def forward(self, question):
        answers = []
        for model in ("openai/gpt-4.1-mini", "openai/gpt-4.1-nano", "openai/gpt-4o"):
            with dspy.context(lm=lm(model)):
                answers.append(self.ask(question=question).answer)
        return dspy.Prediction(answers=answers)


@pattern(QA, ASK)
class LmArgument(_Asking):
    def forward(self, question):
        return self.ask(question=question, lm=lm(max_tokens=50))


@pattern(QA, ASK)
class LmParameters(_Asking):
    def forward(self, question):
        with dspy.context(lm=lm(temperature=0.9, max_tokens=77, top_p=0.5, seed=3, stop=["END"])):
            return self.ask(question=question)


@pattern(QA, ASK)
class LmReasoning(_Asking):
    def forward(self, question):
        with dspy.context(lm=lm("openai/gpt-5-mini", temperature=1.0, max_tokens=16000, reasoning_effort="low")):
            return self.ask(question=question)


@pattern(QA, ASK)
class LmRetries(_Asking):
    def forward(self, question):
        with dspy.context(lm=lm(num_retries=5)):
            return self.ask(question=question)


@pattern(QA, ASK)
class LmCopy(_Asking):
    def forward(self, question):
        with dspy.context(lm=dspy.settings.lm.copy(temperature=0.8, rollout_id=2)):
            return self.ask(question=question)


@pattern(QA, ASK)
class LmDirect(dspy.Module):
    """The model without a predictor."""

    def forward(self, question):
        return dspy.Prediction(answer=dspy.settings.lm(question)[0])


@pattern(QA, ASK)
class LmMessages(dspy.Module):
    def forward(self, question):
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": question}]
        return dspy.Prediction(answer=dspy.settings.lm(messages=messages, temperature=0.2)[0])


@pattern(QA, ASK)
class LmDirectAsync(dspy.Module):
    async def aforward(self, question):
        return dspy.Prediction(answer=(await dspy.settings.lm.acall(question))[0])


@pattern(QA, ASK)
class OwnLmDirect(dspy.Module):
    def forward(self, question):
        return dspy.Prediction(answer=lm()(question)[0])


@pattern(QA, ASK)
class CallConfig(_Asking):
    def forward(self, question):
        return self.ask(question=question, config={"temperature": 0.4, "max_tokens": 40})


@pattern(QA, ASK)
class PredictorConfig(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.ChainOfThought(QA, temperature=0.6, max_tokens=90)

    def forward(self, question):
        return self.ask(question=question)


@pattern(QA, ASK)
class ExtraHeaders(_Asking):
    def forward(self, question):
        with dspy.context(lm=lm(extra_headers={"X-Title": "compat"})):
            return self.ask(question=question)


@pattern(QA, ASK)
class ReadsSettings(_Asking):
    def forward(self, question):
        settings = dspy.settings
        found = self.ask(question=f"{question} {settings.lm.model} {settings.get('nothing')} {settings.num_threads}")
        return dspy.Prediction(
            answer=f"{found.answer} {type(settings.adapter).__name__ if settings.adapter else 'none'}"[:9]
        )


@pattern(QA, ASK)
class LmHistory(_Asking):
    def forward(self, question):
        self.ask(question=question)
        found = self.ask(question=question + "!")
        last = dspy.settings.lm.history[-1]
        return dspy.Prediction(
            answer=f"{found.answer} {len(dspy.settings.lm.history)} {last['model']} {last['usage']['completion_tokens']}"
        )


@pattern(QA, ASK)
class ModuleHistory(_Asking):
    def forward(self, question):
        found = self.ask(question=question)
        return dspy.Prediction(answer=f"{found.answer} {len(self.history)} {len(self.ask.history)}")


@pattern(QA, ASK)
class InspectHistory(_Asking):
    def forward(self, question):
        found = self.ask(question=question)
        text = io.StringIO()
        dspy.inspect_history(n=1, file=text)
        return dspy.Prediction(answer=f"{found.answer} {question in text.getvalue()}")


@pattern(QA, ASK)
class TrackUsage(_Asking):
    def forward(self, question):
        with dspy.track_usage() as tracker:
            found = self.ask(question=question)
        totals = tracker.get_total_tokens()
        return dspy.Prediction(
            answer=f"{found.answer} {sorted(totals)} {[use['completion_tokens'] for use in totals.values()]}"
        )


@pattern(QA, ASK)
class TrackUsageSetting(_Asking):
    def forward(self, question):
        with dspy.context(track_usage=True):
            found = self.ask(question=question)
        return dspy.Prediction(answer=f"{found.answer} {sorted(found.get_lm_usage() or {})}")


class _Noting(dspy.utils.BaseCallback):
    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_lm_start(self, call_id, instance, inputs):
        self.seen.append("lm")

    def on_module_end(self, call_id, outputs, exception=None):
        self.seen.append("module")

    def on_adapter_format_start(self, call_id, instance, inputs):
        self.seen.append("format")

    def on_adapter_parse_end(self, call_id, outputs, exception=None):
        self.seen.append("parse")


@pattern(QA, ASK)
class ContextCallbacks(_Asking):
    def forward(self, question):
        noting = _Noting()
        with dspy.context(callbacks=[noting]):
            found = self.ask(question=question)
        return dspy.Prediction(answer=f"{found.answer} {noting.seen}")


@pattern(QA, ASK)
class ModuleCallbacks(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.noting = _Noting()
        self.ask = dspy.Predict(QA, callbacks=[self.noting])

    def forward(self, question):
        noting = self.ask.callbacks[0] if self.ask.callbacks else self.noting
        found = self.ask(question=question)
        return dspy.Prediction(answer=f"{found.answer} {noting.seen}")


@pattern(QA, ASK)
class Trace(_Asking):
    def forward(self, question):
        with dspy.context(trace=[]):
            found = self.ask(question=question)
            return dspy.Prediction(answer=f"{found.answer} {len(dspy.settings.trace)}")


@pattern(QA, ASK, is_warm=True)
class ConfiguresInForward(_Asking):
    def forward(self, question):
        dspy.configure(adapter=dspy.JSONAdapter())
        return self.ask(question=question)


@pattern(QA, ASK, is_warm=True)
class ConfiguresLmInForward(_Asking):
    def forward(self, question):
        dspy.configure(lm=lm(temperature=0.2))
        return self.ask(question=question)


@pattern(QA, ASK, is_warm=True)
class ConfiguresCallbacks(_Asking):
    """Settings that do not change what is asked."""

    def forward(self, question):
        dspy.configure(track_usage=True, num_threads=3)
        return self.ask(question=f"{question} {dspy.settings.num_threads}")


@pattern(QA, ASK)
class ConfiguresInInit(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        dspy.configure(adapter=dspy.JSONAdapter())
        self.ask = dspy.Predict(QA)

    def forward(self, question):
        return self.ask(question=question)


@pattern(QA, ASK)
def configures_in_factory():
    dspy.settings.configure(adapter=dspy.XMLAdapter())
    return dspy.ChainOfThought(QA)


@pattern(QA, ASK)
class ForeignAddress(_Asking):
    """An address that the program does not name: a worker refuses it."""

    def forward(self, question):
        with dspy.context(
            lm=dspy.LM("openai/gpt-4o", api_base="http://127.0.0.1:9/v1", api_key="test", cache=False, num_retries=0)
        ):
            return self.ask(question=question)


@pattern(QA, ASK)
class LiteralKey(_Asking):
    """A key in the code: a worker refuses it."""

    def forward(self, question):
        model = dspy.LM("openai/gpt-4o", api_base=os.environ["COMPAT_API_BASE"], api_key="sk-in-the-code", cache=False)
        with dspy.context(lm=model):
            return self.ask(question=question)


@pattern(
    QA,
    ASK,
    models={"judge": dspex.Model("openai/gpt-4.1-mini", api_base="COMPAT", temperature=0.3, options={"seed": 7})},
)
class NamedByTheProgram(dspy.Module):
    """The second model is the program's setting; plain DSPy makes it itself."""

    def __init__(self) -> None:
        super().__init__()
        self.draft = dspy.Predict("question -> draft")
        self.judge = dspy.Predict("question, draft -> answer")
        self.judge.set_lm(_judge())

    def forward(self, question):
        return self.judge(question=question, draft=self.draft(question=question).draft)


def _judge():
    try:
        return dspex.model("judge")
    except RuntimeError:
        return lm(temperature=0.3, seed=7)


@pattern(
    QA,
    ASK,
    models={"judge": dspex.Model("openai/gpt-4.1-mini", api_base="COMPAT", temperature=0.3)},
    predictors={"second": "judge"},
)
class PredictorOnAnother(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = dspy.Predict("question -> hint")
        self.second = dspy.Predict("question, hint -> answer")
        if "COMPAT_HOSTED" not in os.environ:
            self.second.set_lm(lm(temperature=0.3))

    def forward(self, question):
        return self.second(question=question, hint=self.first(question=question).hint)


def _tuned():
    return dspy.LM(
        "openai/gpt-4o-mini",
        api_base=os.environ["COMPAT_API_BASE"],
        api_key="test",
        cache=False,
        num_retries=0,
        top_p=0.5,
        seed=3,
        stop=["END"],
    )


@pattern(QA, ASK, model_options={"top_p": 0.5, "seed": 3, "stop": ["END"]})
class ProgramOptions(_Asking):
    def forward(self, question):
        if "COMPAT_HOSTED" in os.environ:
            return self.ask(question=question)
        with dspy.context(lm=_tuned()):
            return self.ask(question=question)
