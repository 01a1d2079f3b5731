"""Models of a program: its own, and those that it names for parts of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from dspex.errors import FieldError

__all__ = ["Model", "find_model", "model", "option_faults"]

#: Options that are fields of their own, or belong to the worker.
_OWN = frozenset(
    {"model", "model_type", "temperature", "max_tokens", "api_key", "api_base", "base_url", "cache", "num_retries"}
    | {"engine", "async_engine", "callbacks", "messages", "prompt"}
)


@dataclass(frozen=True)
class Model:
    """A language model and how it is asked.

    ``model``           any DSPy model string, or ``"smollm2"``
    ``api_key_env``     the *name* of the environment variable, in the worker, that holds the key
    ``api_base``        the address of an OpenAI-compatible server
    ``temperature``     0 to 2; the provider's default when ``None``
    ``max_tokens``      the most tokens of one answer; the provider's default when ``None``
    ``options``         whatever else ``dspy.LM`` takes: ``{"reasoning_effort": "low", "top_p": 0.9, "seed": 7,
                        "stop": ["END"], "extra_headers": {"X-Title": "support"}}``
    """

    model: str
    api_key_env: str | None = None
    api_base: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, given: Any) -> Any:
        """A model from its short form, or from stored content; anything else is returned as it is."""
        if isinstance(given, str):
            return cls(given)
        return cls(**given) if isinstance(given, Mapping) and "model" in given else given


def option_faults(path: str, options: Any) -> Iterator[FieldError]:
    """The faults of a model's options."""
    if not isinstance(options, Mapping):
        yield FieldError(path, "a mapping of options that dspy.LM takes", repr(options)[:80])
        return
    for name in sorted(_OWN.intersection(options)):
        yield FieldError(f"{path}.{name}", "no option: it is a setting of its own, or the worker's")
    headers = options.get("extra_headers", {})
    if not isinstance(headers, Mapping) or not all(isinstance(text, str) for text in (*headers, *headers.values())):
        yield FieldError(f"{path}.extra_headers", "a mapping from text to text")


#: Finds the named models of the program whose code is built or run.
find_model: ContextVar[Callable[[str], Any] | None] = ContextVar("find_model", default=None)


def model(name: str) -> Any:
    """The ``dspy.LM`` that the program names so in ``models``: for a ``dspy.Module`` of your own, which a worker runs.

    Raises RuntimeError outside of a worker, KeyError for a name that the program does not have.
    """
    find = find_model.get()
    if find is None:
        raise RuntimeError("dspex.model() is for the code of a program that a worker runs")
    return find(name)
