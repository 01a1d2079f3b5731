"""The adapter registry: what can host a program, and what each adapter is able to do.

An adapter turns validated inputs into raw outputs inside a worker. The producer only needs to know which
exist and what they can do, so this registry holds descriptions; the worker imports ``implementation``.
A third party adds one with an entry point in the group ``dspex.adapters`` that names an :class:`AdapterInfo`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from types import MappingProxyType

from dspex.errors import ConfigurationError

__all__ = ["AdapterInfo", "Capabilities", "adapters"]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an adapter is able to do with a program.

    ``modules``: the values of ``Program(module=...)`` it hosts. ``options``: the keys of
    ``Program(module_options=...)`` it reads. ``calls_models``: whether it needs ``Program(model=...)``.
    """

    modules: frozenset[str]
    options: frozenset[str] = frozenset()
    calls_models: bool = True
    supports_streaming: bool = False
    supports_functions: bool = False


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """An adapter by ``name``; ``implementation`` (``"package.module:Class"``) is imported by workers only."""

    name: str
    description: str
    implementation: str
    capabilities: Capabilities


BUILT_IN = (
    AdapterInfo(
        "dspy",
        "A DSPy module: prompts, parsing and model calls by DSPy",
        "workers.adapters.dspy:DspyAdapter",
        Capabilities(modules=frozenset({"predict", "chain_of_thought"})),
    ),
    AdapterInfo(
        "scripted",
        "The deterministic double: the whole path is real, but no model is called",
        "workers.adapters.scripted:ScriptedAdapter",
        Capabilities(
            modules=frozenset({"predict", "chain_of_thought"}),
            options=frozenset({"sleep_ms", "calls", "outputs", "fail", "die"}),
            calls_models=False,
        ),
    ),
)


@cache
def adapters() -> Mapping[str, AdapterInfo]:
    """The adapters known here, by name: the built-in ones and those of installed packages.

    Raises ConfigurationError when two claim one name or an entry point is not an AdapterInfo.
    """
    found = {info.name: info for info in BUILT_IN}
    for point in entry_points(group="dspex.adapters"):
        info = point.load()
        if not isinstance(info, AdapterInfo):
            raise ConfigurationError(
                f"entry point {point.name!r} of group dspex.adapters is not an AdapterInfo: {point.value}"
            )
        if info.name in found:
            raise ConfigurationError(f"two adapters are named {info.name!r}: rename the one of {point.value}")
        found[info.name] = info
    return MappingProxyType(found)
