"""The files of a new project: a program, a metric, a test and the settings."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["project_files"]

_README = """\
# {name}

```console
$ pip install -e '.[test]'
$ pytest
$ dspex up                          # in another terminal, in this directory
$ dspex deploy {name}/programs.py
$ dspex run answers question="What is the capital of France?"
```

| file | |
|---|---|
| `{name}/answers.py` | the module: any `dspy.Module` |
| `{name}/programs.py` | the program: signature, module, model, limits |
| `{name}/metrics.py` | the metric, for evaluations and optimisers |
| `tests/test_answers.py` | the tests, without a model |
| `dspex.toml` | the settings: the packages that workers load code from |
"""

_PYPROJECT = """\
[project]
name = "{name}"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = ["dspex[worker]"]

[project.optional-dependencies]
test = ["dspex[embedded]", "pytest"]

[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[tool.setuptools]
packages = ["{name}"]
"""

_SETTINGS = """\
# Settings of DSPex; `dspex config` shows all of them. Environment variables (DSPEX_…) come first.
program_packages = ["{name}"]
"""

_PROGRAMS = '''\
"""The programs: `dspex deploy` stores them. Nothing heavy is imported here."""

import dspex

answers = dspex.Program(
    "answers",
    "question -> answer",
    module="{name}.answers:Answers",
    model="{model}",
    limits=dspex.Limits(concurrency=20),
)
'''

_MODULE = '''\
"""The module that workers run."""

import dspy


class Answers(dspy.Module):
    """Answer the question in one sentence."""

    def __init__(self):
        super().__init__()
        self.answer = dspy.ChainOfThought("question -> answer")

    async def aforward(self, question: str):
        return await self.answer.acall(question=question)

    def forward(self, question: str):
        return self.answer(question=question)
'''

_METRICS = '''\
"""The metrics: functions of an example and a prediction, as DSPy's optimisers take them."""


def contains(example, prediction, trace=None):
    """Whether the expected answer is in the answer."""
    return example.answer.casefold() in prediction.answer.casefold()
'''

_TEST = '''\
"""Tests without a model: its answers are given."""

import dspy
from dspy.utils import DummyLM

from {name}.answers import Answers
from {name}.metrics import contains
from {name}.programs import answers

EXAMPLE = dspy.Example(question="What is the capital of France?", answer="Paris").with_inputs("question")


def test_the_module_answers():
    with dspy.context(lm=DummyLM([{{"reasoning": "It is known.", "answer": "It is Paris."}}])):
        prediction = Answers()(question=EXAMPLE.question)
    assert contains(EXAMPLE, prediction)


def test_the_program_is_complete():
    assert [field.name for field in answers.signature.output_fields] == ["answer"]
'''


def project_files(name: str, model: str) -> Mapping[str, str]:
    """The content of each file, by its path within the project; ``name`` is the name of the package."""
    texts = {
        "README.md": _README,
        "pyproject.toml": _PYPROJECT,
        "dspex.toml": _SETTINGS,
        f"{name}/__init__.py": "",
        f"{name}/programs.py": _PROGRAMS,
        f"{name}/answers.py": _MODULE,
        f"{name}/metrics.py": _METRICS,
        "tests/test_answers.py": _TEST,
    }
    return {path: text.format(name=name, model=model) for path, text in texts.items()}
