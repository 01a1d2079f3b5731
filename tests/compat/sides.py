"""The two sides of the comparison: ``python -m tests.compat.sides plain|hosted URL`` prints a line of JSON a pattern.

Each is a process of its own: what DSPex changes in DSPy must not change the plain side.
"""

from __future__ import annotations

import asyncio
import enum
import json
import logging
import os
import sys
import urllib.request
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import dspy
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from tests.compat.pattern import PATTERNS, Pattern

__all__ = ["INTERPRETER", "MODEL", "Side", "program_of", "run_hosted", "run_plain"]

MODEL = "openai/gpt-4o-mini"
#: What runs the code of models on the hosted side: the same as on the plain one.
INTERPRETER = "tests.compat.patterns.agents:SubmittingInterpreter"
#: A pattern that hangs is given up.
LONGEST_SECONDS = 20.0


@dataclass
class Side:
    """What one side did. ``paid`` counts the journaled calls, on the hosted side."""

    name: str
    outputs: dict[str, Any] | None = None
    error: str | None = None
    refused: bool = False
    requests: list[dict[str, Any]] = field(default_factory=list)
    journaled: int | None = None
    model_calls: int | None = None


Ask = Callable[[str, Any], Any]


def run_plain(ask: Ask, url: str, pattern: Pattern) -> Side:
    """The pattern by plain DSPy, as its documentation says."""
    side = Side(pattern.name)
    _begin(ask, pattern)
    lm = dspy.LM(MODEL, api_base=url, api_key="test", cache=False, num_retries=0)
    dspy.configure(lm=lm, adapter=pattern.adapter() if pattern.adapter else None, callbacks=[],
                   warn_on_type_mismatch=False)  # fmt: skip
    try:
        module, inputs = pattern.make(), dict(pattern.inputs)
        if pattern.is_warm:  # what it configures holds from its second call on
            module(**inputs)
            _begin(ask, pattern)
        returned = asyncio.run(module.acall(**inputs)) if _is_async(module) else module(**inputs)
        side.outputs = _canonical(pattern, _outputs(pattern, returned))
    except Exception as error:
        side.error = f"{type(error).__name__}: {str(error)[:300]}"
    side.requests = ask("/requests", {})
    return side


def program_of(pattern: Pattern, url: str) -> Any:
    """The pattern as a program. Its other models are on the same server."""
    import dspex

    settings = dict(pattern.settings)
    if "models" in settings:
        settings["models"] = {name: replace(model, api_base=url) for name, model in settings["models"].items()}
    return dspex.Program(pattern.name, dspex.signature(pattern.signature), model=MODEL, api_base=url, **settings)


async def run_hosted(ask: Ask, url: str, pattern: Pattern, adapter: Any) -> Side:
    """The pattern as a program, by the adapter that workers use."""
    from dspex.errors import DspexError
    from tests.compat.memory import memory_run

    side = Side(pattern.name)
    _begin(ask, pattern)
    try:
        program = program_of(pattern, url)
        await adapter.prepare(program)
        run, journal = memory_run(program, _stored(pattern.inputs))
    except DspexError as error:
        side.error, side.refused = f"{error.code}: {str(error)[:300]}", True
        return side
    try:
        async with asyncio.timeout(LONGEST_SECONDS):
            raw = await adapter.execute(run)
        checked = program.signature.check_outputs(raw).values
        found = json.loads(program.signature.encode("outputs", checked))
        side.outputs = {name: value for name, value in found.items() if value is not None}
    except DspexError as error:
        side.error = f"{error.code}: {str(error)[:300]}"
    except Exception as error:
        side.error = f"{type(error).__name__}: {str(error)[:300]}"
    side.requests = ask("/requests", {})
    side.journaled = journal.totals()["lm_calls"]
    return side


def _begin(ask: Ask, pattern: Pattern) -> None:
    ask(
        "/begin",
        {"answers": to_jsonable_python(dict(pattern.answers)), "steps": [list(step) for step in pattern.steps]},
    )


def _is_async(module: Any) -> bool:
    """Whether its author means it to be awaited: the class that defines ``aforward`` is as specific."""
    order = [vars(module), *map(vars, type(module).__mro__)]
    awaited, called = (
        next((place for place, names in enumerate(order) if name in names), len(order))
        for name in ("aforward", "forward")
    )
    if awaited != called:
        return awaited < called
    return str(order[awaited]["__module__"]).startswith("tests.") if awaited < len(order) else False


def _output_names(pattern: Pattern) -> list[str]:
    if isinstance(pattern.signature, str):
        return list(dspy.Signature(pattern.signature).output_fields)
    return list(pattern.signature.output_fields)


def _canonical(pattern: Pattern, outputs: dict[str, Any]) -> dict[str, Any]:
    """As a client gets them: the signature's own spelling of times, and no nulls."""
    import dspex
    from dspex.errors import DspexError

    try:
        signature = dspex.signature(pattern.signature)
        outputs = json.loads(signature.encode("outputs", signature.check_outputs(outputs).values))
    except DspexError:
        pass
    return {name: value for name, value in outputs.items() if value is not None}


def _outputs(pattern: Pattern, returned: Any) -> dict[str, Any]:
    names = _output_names(pattern)
    if isinstance(returned, dspy.Prediction | Mapping):
        return {name: stored_form(returned[name]) for name in names if name in returned and returned[name] is not None}
    if all(hasattr(returned, name) for name in names):
        return {name: stored_form(getattr(returned, name)) for name in names}
    return {names[0]: stored_form(returned)}


def _stored(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: stored_form(value) for name, value in inputs.items()}


def stored_form(value: Any) -> Any:
    """A value as a client gives it to DSPex, and gets it back."""
    match value:
        case dspy.Image():
            return {"url": value.url}
        case dspy.Audio():
            return {"data": value.data, "media_type": f"audio/{value.audio_format}"}
        case dspy.File():
            names = ("file_data", "file_id", "filename")
            return {name: getattr(value, name) for name in names if getattr(value, name) is not None}
        case dspy.History():
            return {"messages": stored_form(list(value.messages))}
        case dspy.Code():
            return value.code
        case dspy.Reasoning():
            return value.content
        case enum.Enum():
            return value.value
        case Mapping():
            return {key: stored_form(item) for key, item in value.items()}
        case list() | tuple():
            return [stored_form(item) for item in value]
        case set() | frozenset():
            return sorted(stored_form(item) for item in value)
    if isinstance(value, BaseModel):
        return {name: stored_form(getattr(value, name)) for name in type(value).model_fields}
    return to_jsonable_python(value, by_alias=True)


def _asker(url: str) -> Ask:
    root = url.removesuffix("/v1")

    def ask(path: str, body: Any) -> Any:
        request = urllib.request.Request(f"{root}{path}", json.dumps(body).encode(), method="POST")
        with urllib.request.urlopen(request) as reply:
            return json.load(reply)

    return ask


def main() -> None:
    which, url, *names = sys.argv[1:]
    os.environ |= {"COMPAT_API_BASE": url, "OPENAI_API_KEY": "test", "DSPEX_PROGRAM_PACKAGES": "tests.compat"}
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    import tests.compat.patterns  # noqa: F401

    chosen = [found for name, found in PATTERNS.items() if not names or name in names]
    ask = _asker(url)
    if which == "hosted":
        os.environ |= {"COMPAT_HOSTED": "1", "DSPEX_CODE_INTERPRETER": INTERPRETER}
    if which == "plain":
        for found in chosen:
            print(json.dumps(asdict(run_plain(ask, url, found))), flush=True)
    else:
        asyncio.run(_all_hosted(ask, url, chosen))
    sys.stdout.flush()
    os._exit(0)  # a pattern that hangs may have left a thread


async def _all_hosted(ask: Ask, url: str, chosen: list[Pattern]) -> None:
    from workers.adapters.dspy.dspy_adapter import DspyAdapter

    adapter = DspyAdapter()
    for found in chosen:
        print(json.dumps(asdict(await run_hosted(ask, url, found, adapter))), flush=True)


if __name__ == "__main__":
    main()
