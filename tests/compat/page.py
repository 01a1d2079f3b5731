"""The page docs/reference/dspy-compatibility.md, made by ``make compat``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.compat.pattern import PATTERNS
from tests.compat.table import Verdict, counts

__all__ = ["PAGE", "write"]

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "dspy-compatibility.md"

_HEAD = """# DSPy compatibility

Each of these programs is run by plain DSPy {version} and by DSPex against the same deterministic model server, by
`make compat`, which makes this page. They are compared by the result, the messages and the parameters of every request,
the number of calls, and whether each call is in the journal.

**Same**: no difference. **Own words**: the same, but that DSPex's own modules describe types and constraints in the
prompt. **Fewer calls**: an answer that DSPy asks for a second time is read at the first. **Limits kept**: outputs break
the signature's constraints, which DSPy does not check. **Unsupported**: refused before anything is paid for. **Fails**:
plain DSPy fails, too.

{figures}
"""
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
    PAGE.write_text("\n".join([_HEAD.format(version=version, figures=_figures(verdicts)), *_sections(verdicts)]) + "\n")


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


def word(verdict: Verdict) -> str:
    """The verdict in one or two words."""
    if verdict.kind == "fails":
        return "unsupported" if verdict.calls[1] == 0 else "limits kept" if _CHECKED.match(verdict.note) else "fails"
    if verdict.kind != "differs":
        return _WORDS.get(verdict.kind, verdict.kind)
    if PATTERNS[verdict.name].group == "builtins":
        return "own words"
    return "fewer calls" if verdict.outputs and verdict.calls[1] < verdict.calls[0] else "differs"
