"""A pattern: a DSPy program, its inputs, and what the model server answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

__all__ = ["PATTERNS", "Pattern", "builtin", "pattern"]

T = TypeVar("T", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Pattern:
    """``make`` builds the plain DSPy module; ``settings`` are those of the ``dspex.Program`` that does the same.

    ``answers`` are the model's values by field, else an example of the field's type; ``steps`` are an agent's calls,
    tool and arguments. ``adapter`` makes the adapter that plain DSPy is configured with.
    ``is_warm``: plain DSPy is compared in its second call.
    """

    name: str
    group: str
    signature: Any
    inputs: Mapping[str, Any]
    make: Callable[[], Any]
    settings: Mapping[str, Any]
    answers: Mapping[str, Any] = field(default_factory=dict)
    steps: tuple[tuple[str, dict[str, Any]], ...] = ()
    adapter: Callable[[], Any] | None = None
    is_warm: bool = False


PATTERNS: dict[str, Pattern] = {}


def pattern(
    signature: Any,
    inputs: Mapping[str, Any],
    *,
    answers: Mapping[str, Any] | None = None,
    steps: tuple[tuple[str, dict[str, Any]], ...] = (),
    adapter: Callable[[], Any] | None = None,
    is_warm: bool = False,
    **settings: Any,
) -> Callable[[T], T]:
    """Register a module of one's own: a class or a factory."""

    def register(made: T) -> T:
        module, name = made.__module__, made.__name__
        options = settings.get("module_options", {})
        _add(
            Pattern(
                _snake(name),
                module.rpartition(".")[2],
                signature,
                inputs,
                lambda: made(**options),
                {"module": f"{module}:{name}", **settings},
                answers or {},
                steps,
                adapter,
                is_warm,
            )
        )
        return made

    return register


def builtin(
    name: str,
    signature: Any,
    inputs: Mapping[str, Any],
    make: Callable[[], Any],
    *,
    answers: Mapping[str, Any] | None = None,
    steps: tuple[tuple[str, dict[str, Any]], ...] = (),
    adapter: Callable[[], Any] | None = None,
    **settings: Any,
) -> None:
    """Register a program of one of DSPex's own modules, and the plain module that it stands for."""
    _add(Pattern(name, "builtins", signature, inputs, make, settings, answers or {}, steps, adapter))


def _add(new: Pattern) -> None:
    if PATTERNS.setdefault(new.name, new) is not new:
        raise ValueError(f"two patterns are called {new.name!r}")


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
