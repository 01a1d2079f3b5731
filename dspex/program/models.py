"""Models of a program: its own, its fallback, and those that it names for parts of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

from dspex.errors import FieldError
from dspex.program.addresses import address_fault

__all__ = [
    "ENVIRONMENT",
    "LOCAL_MODEL",
    "OTHER_ENTRIES",
    "Model",
    "address_faults",
    "connection_faults",
    "find_model",
    "is_model",
    "model",
    "model_faults",
    "model_name_fault",
    "option_faults",
    "sampling_faults",
    "secret_headers",
]

#: The bundled model: SmolLM2-135M-Instruct, served on this machine.
LOCAL_MODEL = "smollm2"
#: What the journal's entries begin with that are no calls of models, where those have the model: the result of a tool,
#: the intention to call one that is called once, the decision about a call, the outcome of a child execution.
OTHER_ENTRIES = ("tool:", "intent:", "decision:", "child:")
#: A reference to a variable of the worker's environment in a header: ``"Bearer ${GATEWAY_TOKEN}"``.
ENVIRONMENT = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]{0,127})\}")

#: Options that are fields of their own, or belong to the worker.
_OWN = frozenset(
    {"model", "model_type", "temperature", "max_tokens", "api_key", "api_base", "base_url", "cache", "num_retries"}
    | {"engine", "async_engine", "callbacks", "messages", "prompt"}
)
#: Settings of ``dspy.LM`` that are of a connection, which the worker owns.
_OF_CONNECTIONS = frozenset(
    {"api_version", "azure_ad_token_provider", "custom_llm_provider", "extra_query", "headers"}
    | {"organization", "project"}
)
#: Headers whose value is a secret, whatever it looks like.
_SECRET_HEADER = re.compile(
    r"(?i)((api|access|auth|functions?|private|security|session|subscription|vault)[-_]?(key|token)"
    r"|cookie|authorization|secret|password|credentials?)$"
)
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
# It becomes part of HTTP requests, which a line break would split.
_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f]*/[^\x00-\x1f\x7f-\x9f]*")
EXPECTED = "'provider/model', 'smollm2' or a dspex.Model"


@dataclass(frozen=True)
class Model:
    """A language model and how it is asked.

    ``model``           any DSPy model string, or ``"smollm2"``
    ``api_key_env``     the *name* of the environment variable, in the worker, that holds the key
    ``api_base``        the address of an OpenAI-compatible server
    ``temperature``     0 to 2; the provider's default when ``None``
    ``max_tokens``      the most tokens of one answer; the provider's default when ``None``
    ``options``         whatever else ``dspy.LM`` takes: ``{"reasoning_effort": "low", "top_p": 0.9, "seed": 7,
                        "stop": ["END"], "extra_headers": {"X-Title": "support"}}``. A secret in a header is named by
                        its variable in the worker's environment: ``{"Authorization": "Bearer ${GATEWAY_TOKEN}"}``
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

    @property
    def secret_names(self) -> frozenset[str]:
        """The variables of the worker's environment that hold its key and the secrets in its headers."""
        headers = self.options.get("extra_headers", {}).values()
        in_headers = {name for text in headers for name in ENVIRONMENT.findall(text)}
        return frozenset(in_headers if self.api_key_env is None else {self.api_key_env, *in_headers})


def secret_headers(model: Model) -> Sequence[str]:
    """The names of headers that hold a secret as it stands, rather than the name of its variable."""
    headers = model.options.get("extra_headers", {})
    return [
        name for name, text in headers.items() if text and _SECRET_HEADER.search(name) and not ENVIRONMENT.search(text)
    ]


def is_model(value: object) -> bool:
    """Whether it has the form of a DSPy model string, or names the bundled model."""
    if not isinstance(value, str) or value.startswith(OTHER_ENTRIES):
        return False
    return value == LOCAL_MODEL or _NAME.fullmatch(value) is not None


def model_name_fault(path: str, given: Any, name: Any) -> FieldError:
    """The fault of what is no model's name."""
    if isinstance(name, str) and name.startswith(OTHER_ENTRIES):
        kinds = ", ".join(OTHER_ENTRIES)
        return FieldError(path, f"{EXPECTED}, beginning with none of {kinds}, which mark other entries of the journal",
                          repr(given)[:80])  # fmt: skip
    return FieldError(path, EXPECTED, repr(given)[:80])


def model_faults(path: str, given: Any) -> Iterator[FieldError]:
    """The faults of a model that a program names at ``path``."""
    if not isinstance(given, Model) or not is_model(given.model):
        yield model_name_fault(path, given, getattr(given, "model", None))
        return
    yield from option_faults(f"{path}.options", given.options)
    for fault in (*sampling_faults(given), *address_faults(given)):
        yield replace(fault, path=f"{path}.{fault.path}")


def sampling_faults(given: Any) -> Iterator[FieldError]:
    """The faults of ``temperature`` and ``max_tokens``, of a program or a model."""
    warmth, most = given.temperature, given.max_tokens
    if warmth is not None and not (type(warmth) in (int, float) and 0 <= warmth <= 2):
        yield FieldError("temperature", "a number from 0 to 2", repr(warmth))
    if most is not None and not (type(most) is int and most >= 1):
        yield FieldError("max_tokens", "a positive integer", repr(most))


def address_faults(given: Any) -> Iterator[FieldError]:
    """The faults of ``api_key_env`` and ``api_base``, of a program or a model."""
    if given.api_key_env is not None and not _ENV_NAME.fullmatch(given.api_key_env):
        yield FieldError("api_key_env", "the name of an environment variable")
    if given.api_base is not None and (fault := address_fault(given.api_base)):
        yield fault


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


def connection_faults(path: str, options: Any) -> Iterator[FieldError]:
    """The options of a model that the worker asks itself, and that would set its connection in another way."""
    for name in sorted(_OF_CONNECTIONS.intersection(options)) if isinstance(options, Mapping) else ():
        expected = "no option: a connection is set by api_base, whose query is sent, api_key_env and extra_headers"
        yield FieldError(f"{path}.{name}", expected)


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
