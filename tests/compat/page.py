"""The page docs/reference/dspy-compatibility.md, made by ``make compat``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.compat.pattern import PATTERNS
from tests.compat.table import Verdict, counts

__all__ = ["PAGE", "is_explained", "recorded_release", "word", "write"]

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "dspy-compatibility.md"

_HEAD = """# DSPy compatibility

Each of these programs is run by plain DSPy {version} and by DSPex against the same deterministic model server, by
`make compat`, which makes this page. They are compared by the result, the messages and the parameters of every request,
the number of calls, and whether each call is in the journal.

{figures}

Calls of `dspy.Embedder` to a provider are made as in DSPy, and are not in the journal, the limits and the costs. Calls
of a subclass of `dspy.BaseLM`, or of an engine of a program's own, are: see
[models whose calls are your own code](../how-to/reach-a-model.md#models-whose-calls-are-your-own-code).
"""
_DIFFERENCES = """
## What differs, and what to write instead

| DSPex | programs | meaning | what to write instead |
|---|---|---|---|"""
#: What each word means, and what to write instead.
_MEANINGS = {
    "own words": (
        "answers are read alike; DSPex's own modules describe types and constraints in prompts in words of their own, "
        "since a deployed signature is data, without your classes",
        'for DSPy\'s words, name the module yourself: `module="package.module:Class"`',
    ),
    "fewer calls": ("the same result; an answer that DSPy asks for a second time is read at the first", "nothing"),
    "limits kept": (
        "the outputs break the constraints of the program's signature, which DSPy does not check: `output_unfit` where "
        "the code is to blame, another attempt where the model is",
        "leave the constraint out of the program's signature; the signatures within the module may keep it",
    ),
    "unsupported": (
        "refused before the model is asked: `model_not_allowed`",
        "name the address as the program's `api_base` and the key by `api_key_env`, or another model in `models`, "
        'which the code finds with `dspex.model("name")`',
    ),
    "fails": ("plain DSPy fails, too, with the same error", "nothing"),
}
_WORDS = {"same": "same", "both fail": "fails", "refused": "unsupported"}
_GROUPS = {
    "composition": "Modules of one's own",
    "running": "Ways of running",
    "models": "Models and settings",
    "several": "Several tries",
    "neighbours": "Nearest neighbours",
    "agents": "Agents, tools and code",
    "values": "Typed values",
    "adapters": "Adapters",
    "builtins": "DSPex's own modules",
}


_CHECKED = re.compile("validation_error|constraint_violation|output_unfit")


def write(verdicts: Sequence[Verdict], version: str) -> None:
    PAGE.write_text("\n".join([*_lines(verdicts, version)]) + "\n")


def recorded_release() -> str:
    """The release of DSPy that the page is made with, and what plain DSPy did is recorded of."""
    return PAGE.read_text().partition("plain DSPy ")[2].partition(" ")[0]


def _lines(verdicts: Sequence[Verdict], version: str) -> Iterable[str]:
    yield _HEAD.format(version=version, figures=_figures(verdicts)).rstrip()
    yield _DIFFERENCES
    for found, (meaning, instead) in _MEANINGS.items():
        names = ", ".join(f"`{verdict.name}`" for verdict in verdicts if word(verdict) == found)
        if names:
            yield f"| {found} | {names} | {meaning} | {instead} |"
    yield from _sections(verdicts)


def _figures(verdicts: Sequence[Verdict]) -> str:
    found = counts(verdicts)
    return f"{found['same']} of {len(verdicts)} programs are the same."


def _sections(verdicts: Sequence[Verdict]) -> Iterable[str]:
    for group, title in _GROUPS.items():
        of_group = [verdict for verdict in verdicts if PATTERNS[verdict.name].group == group]
        if of_group:
            yield f"\n## {title}\n\n| program | DSPex | calls, DSPy and DSPex |\n|---|---|---|"
            yield from (_row(verdict) for verdict in of_group)


def _row(verdict: Verdict) -> str:
    return f"| `{verdict.name}` | {word(verdict)} | {verdict.calls[0]}, {verdict.calls[1]} |"


def is_explained(verdict: Verdict) -> bool:
    """Whether it is the same, or differs in a way that the page explains."""
    return word(verdict) in ("same", *_MEANINGS)


def word(verdict: Verdict) -> str:
    """The verdict in one or two words: ``same``, a key of :data:`_MEANINGS`, or ``differs``."""
    if verdict.note.startswith("model_not_allowed") and verdict.calls[1] == 0:
        return "unsupported"
    if verdict.kind == "fails":
        return "limits kept" if _CHECKED.match(verdict.note) else "fails here"
    if verdict.kind != "differs":
        return _WORDS.get(verdict.kind, verdict.kind)
    if PATTERNS[verdict.name].group == "builtins":
        return "own words"
    return "fewer calls" if verdict.outputs and verdict.calls[1] < verdict.calls[0] else "differs"
