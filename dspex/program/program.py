"""Programs: what to run, as plain data, versioned by its content."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import InitVar, asdict, dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dspex.errors import FieldError, ProgramNotFound, SecretInProgram, ValidationError
from dspex.program.actions import Action
from dspex.program.adapters import AdapterInfo, adapters, unloadable
from dspex.program.calls.routes import DEFAULT_WITHIN, CallsRoute, read_span, route_faults
from dspex.program.calls.webhook_address import webhook_faults
from dspex.program.limits import Limits
from dspex.program.media import adapter_media_faults, model_media_faults
from dspex.program.models import (
    ENVIRONMENT,
    LOCAL_MODEL,
    Model,
    address_faults,
    connection_faults,
    is_model,
    model_faults,
    model_name_fault,
    option_faults,
    sampling_faults,
    secret_headers,
)
from dspex.program.modules import is_custom, is_reference, module_faults
from dspex.program.nesting import depth_fault, is_deeper
from dspex.program.storable_text import STORABLE
from dspex.signatures import Signature, signature

__all__ = ["EXTRACTION", "LOCAL_MODEL", "ON_CUT", "PROMPTS", "RECORDS", "Program", "Retry", "refuse_secret_headers"]

#: How a program's signature becomes a prompt: DSPy's default, DSPy's JSON, DSPex's (short, examples as chat turns,
#: structured outputs), DSPy's XML, DSPy's with BAML's schemas, or DSPy's two steps: one model answers freely, another
#: one reads the outputs from that.
PROMPTS = ("chat", "json", "compact", "xml", "baml", "two_step")
#: Which of the program's ``models`` reads the answers of the prompt ``two_step``.
EXTRACTION = "extraction"
#: What is kept of each model call: its answer; its request as well; or nothing.
RECORDS = ("responses", "full", "none")
#: What becomes of an answer that was cut off.
ON_CUT = ("retry", "accept")
# Fields that programs did not always have, and their defaults.
_LATER: Mapping[str, Any] = {
    "record": RECORDS[0], "on_cut": ON_CUT[0], "model_options": {}, "models": {}, "predictors": {},
    "fallback": (),
    "route": "standard", "within": DEFAULT_WITHIN, "otherwise": "standard", "timeout_includes_waiting": False,
    "webhook": None,
}  # fmt: skip

#: The maximum depth of its options and state; DSPy's states are about ten deep.
DEPTH_MOST = 100

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,99}")
_SECRET_KEY = re.compile(r"(?i)(api_?key|secret|access_?token|auth_?token|password|passwd|authorization|credentials?)$")
_SECRET_VALUE = re.compile(
    r"\b(?:sk-[A-Za-z0-9_-]{16,}|AKIA[0-9A-Z]{16}|AIza[0-9A-Za-z_-]{30,}|gh[pousr]_[A-Za-z0-9]{30,}|Bearer\s+\S{16,})"
    r"|://[^/\s:@]+:[^/\s:@]+@"
)

#: What may stand before a secret in a header, such as ``Bearer``.
_SCHEME = re.compile(r"[A-Za-z]{0,16}\s*")


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and how soon a failed attempt is retried.

    ``max_attempts`` counts the first. The wait before attempt n+1 is ``backoff * 2**(n-1)`` seconds, at most
    ``max_backoff``, with up to 25 % taken off at random so that failures do not return together, and never shorter
    than the provider asks (``Retry-After``). Waiting holds no worker: the attempt is scheduled in Postgres, and
    replays the model calls that were answered.

    Inside an attempt, without counting as one: a model call that failed for a moment (``provider_unavailable``,
    ``rate_limited``, ``model_timeout``) is made up to three times within seconds, unless the provider asks for more
    than five or the attempt's time is up before; and an answer that cannot be read or breaks the signature is sent
    back once, with its faults. Bad credentials, billing, refused requests and a program's own errors are
    final at once.
    """

    max_attempts: int = 3
    backoff: float = 1.0
    max_backoff: float = 60.0

    def faults(self) -> Iterator[FieldError]:
        if not _is_int(self.max_attempts) or not 1 <= self.max_attempts <= 100:
            yield FieldError("retry.max_attempts", "an integer from 1 to 100", repr(self.max_attempts))
        for name in ("backoff", "max_backoff"):
            value = getattr(self, name)
            if not _is_number(value) or not 0 <= value <= 86_400:
                yield FieldError(f"retry.{name}", "seconds from 0 to 86400", repr(value))


@dataclass(frozen=True)
class Program:
    """A signature, how to run it, and on which model: immutable data, versioned by its content.

    ``signature``       what :func:`dspex.signature` takes: text, a class, or a compiled signature
    ``module``          ``predict chain_of_thought react program_of_thought best_of_n refine multi_chain_comparison``,
                        or ``"package.module:factory"`` for a ``dspy.Module`` of your own, from a package that the
                        workers allow; ``module_options`` are its arguments
    ``model``           any DSPy model string (``"openai/gpt-4o-mini"``), ``"smollm2"``, the bundled local model, or a
                        :class:`dspex.Model`, which sets the five settings below at once
    ``model_options``   whatever else ``dspy.LM`` takes: ``{"reasoning_effort": "low", "top_p": 0.9}``
    ``models``          other models of the program by name, each as ``model`` is: in its code, ``dspex.model("judge")``
    ``predictors``      which predictor runs on which of ``models``: ``{"verify.predict": "judge"}``; ``"*"`` means all
                        that are not named
    ``fallback``        models that are asked, in this order, when the one before is out of reach: it cannot be reached
                        or does not answer, limits the rate, refuses the credentials or the account, or its key is
                        missing in the worker. The audit trail has the model that answered, and why. They stand in for
                        the program's own model, and not for ``models`` or a model that its code makes
    ``temperature``     0 to 2; the provider's default when ``None``
    ``max_tokens``      the most tokens of one answer; the provider's default when ``None``
    ``on_cut``          what becomes of an answer that was cut off at a limit of tokens: ``"retry"`` sends it back, with
                        twice the ``max_tokens`` if that is set; ``"accept"`` uses it if it fits the signature
                        nevertheless, and records that in the audit trail
    ``timeout``         seconds an attempt may take
    ``prompt``          ``"chat"``, ``"json"``, ``"compact"``, ``"xml"``, ``"baml"``, ``"two_step"`` (which needs
                        ``models={"extraction": …}``), or ``"package.module:AdapterClass"`` for an adapter of your own;
                        by default compact for ``smollm2``, chat otherwise
    ``state``           an optimised program's JSON state, as ``dspy.Module.dump_state()`` gives it
    ``api_key_env``     the *name* of the environment variable, in the worker, that holds the key
    ``api_base``        the address of an OpenAI-compatible server
    ``adapter``         which adapter hosts it: see :func:`dspex.adapters`; of several, the next is tried when one
                        fails in a way that another may not
    ``limits``          what it may use, across all workers
    ``actions``         manual actions that the worker runs around it, outermost first: names, or
                        :class:`dspex.Action` with a policy and options
    ``tools``           what an agent may call: functions, as ``"package.module:function"``, and tools of MCP servers
                        that the workers allow, as ``"mcp+https://host/path#tool"``
    ``journal``         whether finished model calls are kept and replayed by a later attempt; without, each attempt
                        pays for all of its calls, and the metrics cover the last attempt
    ``record``          what the journal keeps of a model call: its answer (``"responses"``), its request as well
                        (``"full"``; see :attr:`Execution.calls`), or nothing (``"none"``, as without a journal).
                        Requests quote the inputs; they are sealed where the program has secret fields
    ``route``           ``"standard"``, ``"batch"`` (each model call goes through the provider's batch API, for about
                        half the price; the execution waits meanwhile and holds no worker), or ``"flex"`` (the
                        provider's slower, cheaper tier)
    ``within``          how long a call may wait in a batch: seconds, or ``"24h"``; after it the call is made the
                        ordinary way, or fails, as ``otherwise`` says: ``"standard"`` or ``"fail"``
    ``timeout_includes_waiting``  whether the timeout goes on while an execution waits for a batch, an approval or a
                        child
    ``webhook``         an address to which outcomes are posted, where a submit names no other: of each execution that
                        is submitted by itself, and of each batch once all of it is over

    Raises ValidationError with every wrong field, and SecretInProgram when a secret is given.
    """

    name: str
    signature: Signature
    module: str = "predict"
    model: str | Model | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    retry: Retry = field(default_factory=Retry)
    timeout: float = 300.0
    prompt: str | None = None
    module_options: Mapping[str, Any] = field(default_factory=dict)
    state: Mapping[str, Any] | None = None
    api_key_env: str | None = None
    api_base: str | None = None
    adapter: str | Sequence[str] = "dspy"
    limits: Limits = field(default_factory=Limits)
    actions: Sequence[str | Action] = ()
    tools: Sequence[str] = ()
    journal: bool = True
    record: str = "responses"
    on_cut: str = "retry"
    model_options: Mapping[str, Any] = field(default_factory=dict)
    models: Mapping[str, str | Model] = field(default_factory=dict)
    predictors: Mapping[str, str] = field(default_factory=dict)
    fallback: Sequence[str | Model] = ()
    route: str = "standard"
    within: str | float = DEFAULT_WITHIN
    otherwise: str = "standard"
    timeout_includes_waiting: bool = False
    webhook: str | None = None
    api_key: InitVar[object] = None

    if TYPE_CHECKING:
        # The fields above, except that a signature may be in any form that `dspex.signature` takes.
        def __init__(
            self, name: str, signature: Signature | str | type, module: str = ..., model: str | Model | None = ...,
            temperature: float | None = ..., max_tokens: int | None = ..., retry: Retry = ..., timeout: float = ...,
            prompt: str | None = ..., module_options: Mapping[str, Any] = ..., state: Mapping[str, Any] | None = ...,
            api_key_env: str | None = ..., api_base: str | None = ..., adapter: str | Sequence[str] = ...,
            limits: Limits = ..., actions: Sequence[str | Action] = ..., tools: Sequence[str] = ...,
            journal: bool = ..., record: str = ..., on_cut: str = ..., model_options: Mapping[str, Any] = ...,
            models: Mapping[str, str | Model] = ..., predictors: Mapping[str, str] = ...,
            fallback: Sequence[str | Model] = ..., route: str = ..., within: str | float = ..., otherwise: str = ...,
            timeout_includes_waiting: bool = ..., webhook: str | None = ..., api_key: object = ...,
        ) -> None: ...  # fmt: skip

    def __post_init__(self, api_key: object) -> None:
        if api_key is not None:
            raise SecretInProgram(
                f"program {self.name!r} has an api_key: programs are stored; set it in the worker's environment and "
                'name the variable, api_key_env="OPENAI_API_KEY"',
                program=str(self.name),
            )
        if not isinstance(self.signature, Signature):
            object.__setattr__(self, "signature", signature(self.signature))
        object.__setattr__(self, "timeout", float(self.timeout) if _is_number(self.timeout) else self.timeout)
        for name in ("adapter", "actions", "tools"):
            value = getattr(self, name)
            object.__setattr__(self, name, tuple(value) if isinstance(value, list) else value)
        _expand_model(self)
        if isinstance(self.models, Mapping):
            object.__setattr__(self, "models", {name: Model.read(given) for name, given in self.models.items()})
        if isinstance(self.fallback, list | tuple):
            object.__setattr__(self, "fallback", tuple(map(Model.read, self.fallback)))
        if isinstance(self.actions, tuple):
            object.__setattr__(self, "actions", tuple(map(Action.read, self.actions)))
        if errors := list(_depth_faults(self)):
            raise ValidationError.of(f"program {self.name!r}", errors)
        _refuse_secrets(self)
        if errors := list(_faults(self)):
            raise ValidationError.of(f"program {self.name!r}", errors)

    def __hash__(self) -> int:
        return hash((self.name, self.version))

    @property
    def prompt_style(self) -> str:
        """The prompt in force: ``prompt``, or the default for the model."""
        return self.prompt or ("compact" if self.model == LOCAL_MODEL else "chat")

    @property
    def adapters(self) -> tuple[str, ...]:
        """The adapters that may host it, in the order in which they are tried."""
        return (self.adapter,) if isinstance(self.adapter, str) else tuple(self.adapter)

    @property
    def manual_actions(self) -> tuple[Action, ...]:
        """``actions``, each as an :class:`dspex.Action`."""
        return tuple(Action(action) if isinstance(action, str) else action for action in self.actions)

    @property
    def keeps_answers(self) -> bool:
        """Whether finished model calls are kept, so that a later attempt replays them."""
        return self.journal and self.record != "none"

    @property
    def own_modules(self) -> frozenset[str]:
        """The modules of users' code that it loads, which DSPEX_PROGRAM_PACKAGES has to allow."""
        actions = (action.name for action in self.manual_actions)
        named = (self.module, self.prompt, self.module_options.get("reward"), *self.tools, *actions)
        return frozenset(str(each).partition(":")[0] for each in named if is_reference(each))

    @property
    def main_model(self) -> Model:
        """``model`` and its settings, as a :class:`dspex.Model`."""
        settings = (self.api_key_env, self.api_base, self.temperature, self.max_tokens, self.model_options)
        return Model(str(self.model), *settings)

    @property
    def fallback_models(self) -> Sequence[Model]:
        """``fallback``, each as a :class:`dspex.Model`."""
        return tuple(map(Model.read, self.fallback))

    @property
    def secret_names(self) -> frozenset[str]:
        """The variables of the workers' environment that its models name for their keys and headers."""
        models = (self.main_model, *self.fallback_models, *self.named_models.values())
        return frozenset(name for model in models for name in model.secret_names)

    @property
    def named_models(self) -> Mapping[str, Model]:
        """``models``, each as a :class:`dspex.Model`."""
        return {name: Model.read(given) for name, given in self.models.items()}

    @cached_property
    def calls_route(self) -> CallsRoute:
        """``route``, ``within`` and ``otherwise``."""
        return CallsRoute(self.route, read_span(self.within) or 0.0, self.otherwise)

    @cached_property
    def content(self) -> dict[str, Any]:
        """The program as JSON-friendly data, which is stored, and from which the version is computed.

        What is in ``_LATER`` is left out where it has its default: programs from before it existed keep their version.
        """
        left_out = (name for name, value in _LATER.items() if getattr(self, name) == value)
        apart = {"name", "signature", "retry", "limits", *left_out}
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in apart}
        return {
            "signature": self.signature.definition,
            "retry": asdict(self.retry),
            "limits": asdict(self.limits),
            **{key: _plain(value) for key, value in plain.items()},
        }

    @cached_property
    def version(self) -> str:
        """16 hex digits of the SHA-256 of the content: the same content is the same version."""
        return hashlib.sha256(_canonical(self.content)).hexdigest()[:16]

    @classmethod
    def from_content(cls, name: str, content: Mapping[str, Any]) -> Program:
        """The program whose :attr:`content` this is. Fields this version does not know are refused."""
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(content) - known):
            raise ProgramNotFound(
                f"program {name!r} was deployed by a newer DSPex, this one does not know {', '.join(unknown)}: "
                "upgrade it",
                program=name,
            )
        values = {
            **content,
            "signature": signature(content["signature"]),
            "retry": Retry(**content["retry"]),
            "limits": Limits(**content["limits"]),
        }
        return cls(name, **values)


def _expand_model(program: Program) -> None:
    """The settings of a model that is given as one."""
    given = program.model
    if isinstance(given, Model):
        for name in ("model", "api_key_env", "api_base", "temperature", "max_tokens"):
            if name == "model" or getattr(program, name) is None:
                object.__setattr__(program, name, getattr(given, name))
        object.__setattr__(program, "model_options", {**given.options, **program.model_options})


def _depth_faults(program: Program) -> Iterator[FieldError]:
    """Depth is checked before anything else reads the values."""
    for f in fields(program):
        value = getattr(program, f.name)
        if f.name != "signature" and isinstance(value, Mapping | list | tuple) and is_deeper(value, DEPTH_MOST):
            yield depth_fault(f.name, DEPTH_MOST)


def _faults(program: Program) -> Iterator[FieldError]:
    yield from _identity_faults(program)
    yield from _model_faults(program)
    yield from _adapter_faults(program)
    yield from program.retry.faults()
    yield from program.limits.faults()
    yield from _action_faults(program)
    if not isinstance(program.tools, tuple) or not all(isinstance(tool, str) for tool in program.tools):
        yield FieldError("tools", "a list of 'package.module:function'", repr(program.tools)[:80])
    if program.state is not None and not isinstance(program.state, Mapping):
        expected = "a mapping, as dspy.Module.dump_state() or json.load() of its file gives it"
        yield FieldError("state", expected, f"a {type(program.state).__name__}")
    if not isinstance(program.journal, bool):
        yield FieldError("journal", "True or False", repr(program.journal)[:80])
    yield from route_faults(program.route, program.within, program.otherwise)
    if program.route == "batch" and not program.keeps_answers:
        yield FieldError("route", "another route where no answer is kept (journal, record)", repr(program.route))
    if not isinstance(program.timeout_includes_waiting, bool):
        yield FieldError("timeout_includes_waiting", "True or False", repr(program.timeout_includes_waiting)[:80])
    yield from webhook_faults(program.webhook, private=True)  # whose it may be, is checked when it is deployed
    if program.record not in RECORDS:
        yield FieldError("record", f"one of {', '.join(RECORDS)}", repr(program.record)[:80])
    yield from _text_faults(program)


#: What the user's own data is part of.
_GIVEN_DATA = ("fallback", "model_options", "models", "module_options", "state")


def _text_faults(program: Program) -> Iterator[FieldError]:
    for f in fields(program):
        try:
            _canonical(_plain(getattr(program, f.name)))
        except UnicodeEncodeError:
            yield FieldError(f.name, STORABLE)
        except (TypeError, ValueError) as error:
            if f.name in _GIVEN_DATA:
                yield FieldError(f.name, f"JSON-friendly data ({error})", "")


def _action_faults(program: Program) -> Iterator[FieldError]:
    given = program.actions
    if not isinstance(given, tuple) or not all(isinstance(action, str | Action) for action in given):
        yield FieldError("actions", "a list of names and dspex.Action", repr(given)[:80])
        return
    names = [action.name for action in program.manual_actions]
    if len(set(names)) != len(names):
        yield FieldError("actions", "each action once", ", ".join(map(str, names)))
    known = [f.name for f in (*program.signature.input_fields, *program.signature.output_fields)]
    for action in program.manual_actions:
        yield from action.faults(known)


def _identity_faults(program: Program) -> Iterator[FieldError]:
    if not isinstance(program.name, str) or not _NAME.fullmatch(program.name):
        yield FieldError(
            "name", "a name of letters, digits, '_', '.' and '-', at most 100 characters", repr(program.name)[:80]
        )
    if not _is_number(program.timeout) or not 0 < program.timeout <= 86_400:
        yield FieldError("timeout", "seconds, more than 0 and at most 86400", repr(program.timeout))


def _model_faults(program: Program) -> Iterator[FieldError]:
    if program.prompt is not None and program.prompt not in PROMPTS and not is_reference(program.prompt):
        expected = f"one of {', '.join(PROMPTS)}, or 'package.module:AdapterClass'"
        yield FieldError("prompt", expected, repr(program.prompt)[:80])
    yield from sampling_faults(program)
    if program.on_cut not in ON_CUT:
        yield FieldError("on_cut", f"one of {', '.join(ON_CUT)}", repr(program.on_cut)[:80])
    yield from address_faults(program)
    if program.model is not None and not is_model(program.model):
        yield model_name_fault("model", program.model, program.model)
    yield from option_faults("model_options", program.model_options)
    yield from connection_faults("model_options", program.model_options)
    yield from _named_model_faults(program)


def _asked_models(program: Program) -> list[Model]:
    """The models that its module's predictors run on, as far as they are valid."""
    named = [program.models.get(name) for name in program.predictors.values()]
    own = [] if "*" in program.predictors else [program.main_model, *program.fallback]
    return [model for model in (*own, *named) if isinstance(model, Model) and is_model(model.model)]


def _named_model_faults(program: Program) -> Iterator[FieldError]:
    if not isinstance(program.models, Mapping) or not isinstance(program.predictors, Mapping):
        yield FieldError("models", "a mapping from names to models, and predictors one to their names")
        return
    for name, given in program.models.items():
        yield from model_faults(f"models.{name}", given)
    for predictor, name in program.predictors.items():
        if name not in program.models:
            known = ", ".join(sorted(program.models)) or "none"
            yield FieldError(f"predictors.{predictor}", f"the name of one of its models: {known}", repr(name)[:80])
    if not isinstance(program.fallback, tuple):
        yield FieldError("fallback", "a list of models", repr(program.fallback)[:80])
        return
    for place, given in enumerate(program.fallback):
        yield from model_faults(f"fallback[{place}]", given)
        yield from connection_faults(f"fallback[{place}].options", getattr(given, "options", None))
    sub_model = program.module_options.get("sub_model")
    if program.module == "rlm" and sub_model is not None and sub_model not in program.models:
        yield FieldError("module_options.sub_model", "the name of one of its models", repr(sub_model)[:80])
    if program.prompt == "two_step" and EXTRACTION not in program.models:
        expected = "the model that reads the answers of prompt 'two_step'"
        yield FieldError(f"models.{EXTRACTION}", expected, "nothing")
    if not is_custom(program.module):  # whose code may give them to another model
        yield from model_media_faults(_asked_models(program), program.signature.input_fields)


def _adapter_faults(program: Program) -> Iterator[FieldError]:
    if not program.adapters or len(set(program.adapters)) != len(program.adapters):
        yield FieldError("adapter", "one adapter, or several different ones", repr(program.adapter))
    for name in program.adapters:
        info = adapters().get(name)
        if info is None:
            why = f" ({unloadable()[name]})" if name in unloadable() else ""
            yield FieldError("adapter", f"one of {', '.join(sorted(adapters()))}", f"{name!r}{why}")
        else:
            yield from _unable(program, info)


def _unable(program: Program, info: AdapterInfo) -> Iterator[FieldError]:
    """What the program needs and this adapter cannot do."""
    able = info.capabilities
    if program.module not in able.modules and not (able.custom_modules and is_custom(program.module)):
        own = ", or 'package.module:factory'" if able.custom_modules else ""
        expected = f"one of {', '.join(sorted(able.modules))}{own} (adapter {info.name!r})"
        yield FieldError("module", expected, repr(program.module)[:80])
    if able.calls_models and not program.model:
        yield FieldError("model", f"a model, which adapter {info.name!r} needs", repr(program.model))
    if program.tools and not able.supports_functions:
        yield FieldError("tools", f"none, since adapter {info.name!r} calls no functions", f"{len(program.tools)}")
    if not able.takes_nested_media:
        yield from adapter_media_faults(info.name, program.signature.input_fields)
    if able.options is None:
        sides = (program.signature.input_fields, program.signature.output_fields)
        inputs, outputs = ([f.name for f in side] for side in sides)
        yield from module_faults(program.module, program.module_options, program.tools, inputs, outputs)
        return
    for key in sorted(set(program.module_options) - able.options):
        known = ", ".join(sorted(able.options)) or "no options"
        yield FieldError(f"module_options.{key}", f"adapter {info.name!r} reads {known}")


def _refuse_secrets(program: Program) -> None:
    """A secret in any text of the program is refused; the message never repeats it."""
    for f in fields(program):
        if f.name != "signature":
            for path in _secret_paths(f.name, getattr(program, f.name)):
                raise _secret_in(program, path)


def refuse_secret_headers(program: Program) -> None:
    """A secret in a header is refused when a program is deployed. Those that are stored already can be read."""
    models = {"model_options": program.main_model}
    models |= {f"models.{name}.options": model for name, model in program.named_models.items()}
    models |= {f"fallback[{place}].options": model for place, model in enumerate(program.fallback_models)}
    for path, model in models.items():
        for name in secret_headers(model):
            raise _secret_in(program, f"{path}.extra_headers.{name}")


def _secret_in(program: Program, path: str) -> SecretInProgram:
    return SecretInProgram(
        f"program {program.name!r} contains what looks like a secret in {path}: programs are stored; "
        'set it in the worker\'s environment and name the variable, api_key_env="OPENAI_API_KEY"; in a header, '
        '"${GATEWAY_TOKEN}"',
        program=str(program.name),
        path=path,
    )


def _secret_paths(path: str, value: object) -> Iterator[str]:
    if isinstance(value, str) and _SECRET_VALUE.search(ENVIRONMENT.sub("", value)):
        yield path
    elif isinstance(value, Model):
        yield from _secret_paths(path, asdict(value))
    elif isinstance(value, Action):
        yield from _secret_paths(f"{path}.{value.name}", value.options)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            inner = f"{path}.{key}"
            if _SECRET_KEY.search(str(key)) and isinstance(item, str) and not _is_reference_to_secret(item):
                yield inner
            yield from _secret_paths(inner, item)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _secret_paths(f"{path}[{index}]", item)


def _is_reference_to_secret(text: str) -> bool:
    """Whether it only names variables, perhaps after a scheme: ``Bearer ${GATEWAY_TOKEN}``; or is empty."""
    has_names = ENVIRONMENT.search(text) is not None
    return not text or (has_names and _SCHEME.fullmatch(ENVIRONMENT.sub("", text)) is not None)


def _plain(value: Any) -> Any:
    if isinstance(value, Action | Model):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _canonical(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
