"""DSPex's own modules beside the DSPy modules they stand for."""

from __future__ import annotations

import datetime as dt
import json

import dspy

from tests.compat.pattern import builtin
from tests.compat.patterns.agents import CODE, STEPS, LocalInterpreter, SubmittingInterpreter, weather
from tests.compat.patterns.several import length
from tests.compat.patterns.values import ADA, BOB, PIXEL, TREE, Circle, Colour, Person, Point, Square, Tree

QA = "question -> answer"
ASK = {"question": "What is the capital of France?"}
TEXT = {"text": "Ada, 36."}
TOOL = ["tests.compat.patterns.agents:weather"]
REWARD = "tests.compat.patterns.several:length"


class Triage(dspy.Signature):
    """Route a support ticket."""

    ticket: str = dspy.InputField(desc="the customer's message")
    queue: Colour = dspy.OutputField(desc="where it goes")
    urgency: int = dspy.OutputField()


def _of(kind, name="Read"):
    return dspy.Signature({"text": (str, dspy.InputField()), "value": (kind, dspy.OutputField())}, "Read the text.")


builtin("builtin_predict", QA, ASK, lambda: dspy.Predict(QA), module="predict")
builtin("builtin_chain", QA, ASK, lambda: dspy.ChainOfThought(QA), module="chain_of_thought")
builtin("builtin_class", Triage, {"ticket": "Help!"}, lambda: dspy.Predict(Triage), module="predict")
builtin("builtin_json", QA, ASK, lambda: dspy.ChainOfThought(QA), module="chain_of_thought", prompt="json",
        adapter=dspy.JSONAdapter)  # fmt: skip
for _name, _kind, _answer in (
    ("model", Person, ADA), ("models", list[Person], [ADA, BOB]), ("dataclass", Point, {"x": 1, "y": 2}),
    ("date", dt.date, "2026-01-02"), ("tuple", tuple[str, int], ["Ada", 36]), ("shapes", Circle | Square,
    {"kind": "circle", "radius": 1.0}), ("ints", list[int], [1, 2]), ("code", dspy.Code, "```python\nprint(1)\n```"),
    ("optional", str | None, "x"), ("tree", Tree, TREE), ("bool", bool, True), ("set", set[str], ["a"]),
):  # fmt: skip
    _signature = _of(_kind)
    builtin(f"builtin_{_name}", _signature, TEXT, lambda of=_signature: dspy.Predict(of), module="predict",
            answers={"value": _answer})  # fmt: skip
_PICTURE = dspy.Signature(
    {"pictures": (list[dspy.Image], dspy.InputField()), "text": (str, dspy.OutputField())}, "Look."
)
builtin(
    "builtin_images", _PICTURE, {"pictures": [dspy.Image(PIXEL)] * 2}, lambda: dspy.Predict(_PICTURE), module="predict"
)
_SOUND = dspy.Signature({"sound": (dspy.Audio, dspy.InputField()), "text": (str, dspy.OutputField())}, "Listen.")
builtin("builtin_audio", _SOUND, {"sound": dspy.Audio(data="UklGRg==", audio_format="wav")}, lambda: dspy.Predict(_SOUND),
        module="predict")  # fmt: skip
_FILE = dspy.Signature({"file": (dspy.File, dspy.InputField()), "text": (str, dspy.OutputField())}, "Read.")
builtin("builtin_file", _FILE, {"file": dspy.File(file_data="data:text/plain;base64,aGk=", filename="a.txt")},
        lambda: dspy.Predict(_FILE), module="predict")  # fmt: skip
builtin("builtin_react", QA, ASK, lambda: dspy.ReAct(QA, tools=[weather]), steps=STEPS, module="react", tools=TOOL)
_SUBMIT = {"tool_calls": [{"name": "submit", "args": {"answer": "warm"}}]}
builtin("builtin_react_v2", QA, ASK, lambda: dspy.ReActV2(QA, tools=[weather], max_iters=2), module="react_v2", tools=TOOL,
        module_options={"max_iters": 2}, answers={"tool_calls": _SUBMIT})  # fmt: skip
builtin("builtin_code_act", QA, ASK, lambda: dspy.CodeAct(QA, tools=[weather], max_iters=2,
        interpreter_factory=LocalInterpreter), module="code_act", tools=TOOL, module_options={"max_iters": 2},
        answers=CODE)  # fmt: skip
builtin("builtin_program_of_thought", QA, ASK, lambda: dspy.ProgramOfThought(QA, max_iters=2,
        interpreter_factory=LocalInterpreter), module="program_of_thought", module_options={"max_iters": 2},
        answers=CODE)  # fmt: skip
builtin("builtin_rlm", QA, ASK, lambda: dspy.RLM(QA, max_iters=2, interpreter_factory=SubmittingInterpreter), module="rlm",
        module_options={"max_iters": 2}, answers={"code": "print(llm_query('How many?'))", "reasoning": "Ask."})  # fmt: skip
builtin("builtin_best_of_n", QA, ASK, lambda: dspy.BestOfN(dspy.Predict(QA), N=2, reward_fn=length, threshold=1.0),
        module="best_of_n", module_options={"n": 2, "reward": REWARD, "threshold": 1.0})  # fmt: skip
builtin("builtin_refine", QA, ASK, lambda: dspy.Refine(dspy.Predict(QA), N=2, reward_fn=length, threshold=1.0),
        answers={"advice": {"self": "Be shorter."}}, module="refine",
        module_options={"n": 2, "reward": REWARD, "threshold": 1.0})  # fmt: skip


def _state(module):
    return json.loads(json.dumps(module.dump_state(), default=str))


def _optimised():
    """What an optimiser saved: instructions, descriptions, demos."""
    chain = dspy.ChainOfThought(QA)
    chain.predict.signature = chain.predict.signature.with_instructions("Answer like a geographer.")
    chain.predict.demos = [
        dspy.Example(question="Spain?", reasoning="Madrid is.", answer="Madrid"),
        dspy.Example(question="Italy?", answer="Rome", augmented=True),
    ]
    return chain


def _with_lm():
    chain = _optimised()
    chain.set_lm(dspy.LM("openai/gpt-4o-mini", temperature=0.3))
    return chain


def _few_shot():
    return dspy.LabeledFewShot(k=1).compile(
        dspy.Predict(QA), trainset=[dspy.Example(question="1+1?", answer="2").with_inputs("question")], sample=False
    )


builtin("state_chain", QA, ASK, _optimised, module="chain_of_thought", state=_state(_optimised()))
builtin("state_few_shot", QA, ASK, _few_shot, module="predict", state=_state(_few_shot()))


def _pipeline():
    from tests.compat.patterns.composition import Pipeline

    made = Pipeline()
    made.topic.predict.demos = [dspy.Example(question="Q?", reasoning="R.", topic="T")]
    made.answer.predict.signature = made.answer.predict.signature.with_instructions("Be exact.")
    return made


builtin(
    "state_pipeline", QA, ASK, _pipeline, module="tests.compat.patterns.composition:Pipeline", state=_state(_pipeline())
)


def _react():
    agent = dspy.ReAct(QA, tools=[weather])
    agent.extract.predict.demos = [dspy.Example(question="Q?", trajectory="T", reasoning="R", answer="A")]
    return agent


builtin("state_react", QA, ASK, _react, steps=STEPS, module="react", tools=TOOL, state=_state(_react()))
