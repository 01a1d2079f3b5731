"""Docstrings as Markdown, and signatures in a readable form."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

__all__ = ["CODE", "markdown", "signature"]

_ROLE = re.compile(r":(?:attr|class|data|func|meth):`~?([^`]+)`")
_PART = re.compile(r"\s*``([^`]+)``\s{2,}(\S.*)")
_LONG = 100
#: The language of code that is not an example: the tests run ``python`` blocks.
CODE = "py"


def markdown(documented: object) -> str:
    """The docstring of an object; its aligned lists of parts become lists, its ``::`` a block of code."""
    text = _ROLE.sub(lambda role: f"`{role[1].removeprefix('dspex.')}`", inspect.getdoc(documented) or "")
    lines: list[str] = []
    state = "text"
    for line in text.splitlines():
        before, state = state, _state(state, line)
        if state != before:
            lines += {"code": ["```", ""], "list": [""], "text": []}[before]
        if line.endswith("::"):
            lines += [line.removesuffix(":").removesuffix(":") + ":" * (line != "::"), "", f"```{CODE}"]
        elif part := _PART.fullmatch(line):
            lines += [""] * (before != "list" and lines[-1] != "") + [f"- `{part[1]}`: {part[2]}"]
        elif state == "list" and line:
            lines[-1] += f" {line.strip()}"
        else:
            lines.append(line.removeprefix("    ") if state == "code" else line)
    lines += ["```"] * (state == "code")
    joined = re.sub(rf"\n*```{CODE}\n+", f"\n\n```{CODE}\n", re.sub(r"\n{3,}", "\n\n", "\n".join(lines)))
    return re.sub(r"(?<!`)``([^`\n]+(?:\n[^`\n]+)?)``(?!`)", r"`\1`", joined).strip()


def _state(before: str, line: str) -> str:
    """Whether a line is of a block of code, of a list, or text."""
    if line.endswith("::"):
        return "code"
    if before == "code" and (not line or line.startswith(" ")):
        return "code"
    return "list" if _PART.fullmatch(line) or (before == "list" and line.startswith("  ")) else "text"


def signature(called: Callable[..., Any], name: str) -> str:
    """``name(parameters) -> type``, a line for each parameter when it is long."""
    found = inspect.signature(called)
    own = [parameter for parameter in found.parameters.values() if parameter.name not in ("self", "cls")]
    found = found.replace(parameters=own)
    short = f"{name}{_plain(str(found))}".removesuffix(" -> None")
    if len(short) <= _LONG:
        return short
    marks = {parameter.kind for parameter in own}
    lines = [str(parameter) for parameter in own]
    if inspect.Parameter.KEYWORD_ONLY in marks and inspect.Parameter.VAR_POSITIONAL not in marks:
        lines.insert(next(at for at, each in enumerate(own) if each.kind is each.KEYWORD_ONLY), "*")
    body = "".join(f"    {_plain(line)},\n" for line in lines)
    returned = (
        "" if found.return_annotation in (found.empty, None, "None") else f" -> {_plain(str(found.return_annotation))}"
    )
    return f"{name}(\n{body}){returned}"


def _plain(text: str) -> str:
    """Annotations without their quotes and modules."""
    text = re.sub(r"(?<=: )'([^']+)'|(?<=-> )'([^']+)'", lambda found: found[1] or found[2], text)
    text = re.sub(r"<factory>|<function [^>]*<lambda> at \w+>", "…", text).replace("datetime.timedelta(", "timedelta(")
    text = re.sub(r"<class '[\w.]*?(\w+)'>", r"\1", text)
    return re.sub(r"<(\w+)\.[\w.]+: [^>]+>|<[^<>]* object at 0x[0-9a-f]+>", "…", text)
