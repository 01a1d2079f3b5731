"""DSPy's modules of several steps that need changes to run in a worker."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import dspy
from dspy.primitives.code_interpreter import CodeInterpreterError

from dspex.errors import ProgramError
from workers.adapters.dspy.dspy_versions import of_dspy
from workers.adapters.dspy.linear_readers import code_of_program

__all__ = ["RLM", "CodeAct", "MultiChainComparison", "ProgramOfThought", "ReAct", "needs_interpreter"]


class ReAct(dspy.ReAct):  # type: ignore[misc]
    """``dspy.ReAct``, which builds a signature anew at each step to lay out what happened (3 to 28 ms): here once for
    each number of steps."""

    def _format_trajectory(self, trajectory: dict[str, Any]) -> str:
        adapter = dspy.settings.adapter or dspy.ChatAdapter()
        text: str = adapter.format_user_message_content(_trajectory_signature(tuple(trajectory)), trajectory)
        return text


@lru_cache(maxsize=256)
def _trajectory_signature(names: tuple[str, ...]) -> type[dspy.Signature]:
    fields: dict[str, Any] = {name: (str, dspy.InputField()) for name in names}
    made: type[dspy.Signature] = dspy.Signature({**fields, "x": (str, dspy.OutputField())})
    return made


class MultiChainComparison(dspy.MultiChainComparison):  # type: ignore[misc]
    """``M`` chains of thought at once, then one call that compares them: ``chain`` writes what DSPy's takes."""

    def __init__(self, chain: dspy.Module, signature: type[dspy.Signature], *, M: int, temperature: float) -> None:  # noqa: N803
        with _no_deprecation():
            super().__init__(signature, M=M, temperature=temperature)
        self.chain = chain
        self._config = {"temperature": temperature}

    def forward(self, **inputs: Any) -> dspy.Prediction:
        """For callers without a loop, such as DSPy's optimisers."""
        chains = [self.chain(**inputs, config=self._config) for _ in range(self.M)]
        return super().forward(_in_order(chains), **inputs)

    async def aforward(self, **inputs: Any) -> dspy.Prediction:
        chains = await asyncio.gather(*(self.chain.acall(**inputs, config=self._config) for _ in range(self.M)))
        attempts = {f"reasoning_attempt_{n}": self._as_text(chain) for n, chain in enumerate(_in_order(chains), 1)}
        return await self.predict.acall(**attempts, **inputs)

    def _as_text(self, chain: dspy.Prediction) -> str:
        """A chain in DSPy's words."""
        reasoning, answer = (str(chain[name]).strip().split("\n")[0].strip() for name in ("reasoning", self.last_key))
        return f"«I'm trying to {reasoning} I'm not sure but my prediction is {answer}»"


def _in_order(chains: list[dspy.Prediction]) -> list[dspy.Prediction]:
    """In an order that does not depend on timing, so that a later attempt finds the comparison in its journal."""
    return sorted(chains, key=lambda chain: sorted((name, str(value)) for name, value in chain.items()))


class _RunsCode(dspy.Module):  # type: ignore[misc]
    """What fails in the interpreter fails the attempt, and another attempt may succeed."""

    def forward(self, **inputs: Any) -> dspy.Prediction:
        """Raises ProgramError ``interpreter_failed``."""
        try:
            return super().forward(**inputs)
        except CodeInterpreterError as error:
            raise ProgramError(
                f"the interpreter of module {type(self).__name__!r} could not be started, or broke: Deno fetches its "
                "Python runtime from npm and deno.land on first use, into DENO_DIR",
                code="interpreter_failed",
                retryable=True,
            ) from error


class ProgramOfThought(_RunsCode, of_dspy("ProgramOfThought")):  # type: ignore[misc]
    """``dspy.ProgramOfThought``; it is synchronous, so it runs in a thread of the worker's."""

    def __init__(self, signature: type[dspy.Signature], *, max_iters: int) -> None:
        with _no_deprecation():
            super().__init__(signature, max_iters=max_iters)

    def _parse_code(self, code_data: Any) -> tuple[str, str | None]:
        return code_of_program(code_data.get("generated_code", ""))


class CodeAct(_RunsCode, of_dspy("CodeAct")):  # type: ignore[misc]
    """``dspy.CodeAct``, in a thread of the worker's: its tools are functions whose source runs in the interpreter."""

    def __init__(self, signature: type[dspy.Signature], *, tools: list[Any], max_iters: int) -> None:
        with _no_deprecation():
            super().__init__(signature, tools=tools, max_iters=max_iters)

    def _parse_code(self, code_data: Any) -> tuple[str, str | None]:
        return code_of_program(code_data.get("generated_code", ""))


class RLM(_RunsCode, of_dspy("RLM")):  # type: ignore[misc]
    """``dspy.RLM``, in a thread of the worker's."""

    def __init__(self, signature: type[dspy.Signature], **options: Any) -> None:
        with _no_deprecation():
            super().__init__(signature, **options)


def needs_interpreter(module: dspy.Module) -> bool:
    """Whether it, or a module within it, runs code in DSPy's default interpreter."""
    default = getattr(dspy, "PythonInterpreter", None)
    factories = (getattr(part, "_interpreter_factory", None) for _, part in module.named_sub_modules())
    return any(factory is not None and factory is default for factory in factories)


@contextmanager
def _no_deprecation() -> Iterator[None]:
    """DSPy deprecates some of its own modules, or what they use; its version is pinned."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield
