"""The adapter registry: which adapters can host a program, and the capabilities of each.

An adapter turns validated inputs into raw outputs inside a worker. The producer only needs to know which adapters
exist and what they can do, so this registry holds descriptions; the worker imports ``implementation``.
A third party adds one with an entry point in the group ``dspex.adapters`` that names an :class:`AdapterInfo`;
docs/how-to/write-an-adapter.md shows one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from types import MappingProxyType

from dspex.errors import ConfigurationError
from dspex.program.modules import MODULES

__all__ = ["AdapterInfo", "Capabilities", "adapters", "look_again", "unloadable"]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The capabilities of an adapter.

    ``modules``: the values of ``Program(module=...)`` it hosts; ``custom_modules``: whether it hosts the user's own,
    too. ``options``: the keys of ``Program(module_options=...)`` it reads; ``None``: those that the module takes
    (dspex/program/modules.py). ``calls_models``: whether it needs ``Program(model=...)``.
    ``takes_nested_media``: whether files, and images and audio within other values, reach the model as what they are.
    ``supports_functions``: whether it calls ``Program(tools=...)``. ``supports_streaming``: whether it streams the
    text of outputs while the model writes it. :class:`dspex.Program` refuses whatever the adapter lacks, except
    streaming: then outputs are published whole.
    """

    modules: frozenset[str]
    options: frozenset[str] | None = frozenset()
    calls_models: bool = True
    supports_streaming: bool = False
    supports_functions: bool = False
    custom_modules: bool = False
    takes_nested_media: bool = True


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """An adapter by ``name``; ``implementation`` (``"package.module:Class"``) is imported by workers only.

    ``requires`` names the packages that the implementation imports, and ``install`` the extra that installs them.
    """

    name: str
    description: str
    implementation: str
    capabilities: Capabilities
    requires: tuple[str, ...] = ()
    install: str = ""

    @property
    def missing(self) -> Sequence[str]:
        """The required packages that are not installed here; nothing is imported to find out."""
        needed = (self.implementation.partition(".")[0].partition(":")[0], *self.requires)
        return [package for package in needed if find_spec(package) is None]


BUILT_IN = (
    AdapterInfo(
        "dspy",
        "A DSPy module: prompts, parsing and model calls by DSPy",
        "workers.adapters.dspy.dspy_adapter:DspyAdapter",
        Capabilities(
            modules=frozenset(MODULES),
            options=None,
            supports_streaming=True,
            supports_functions=True,
            custom_modules=True,
        ),
        requires=("dspy", "aiohttp"),
        install="dspex[worker]",
    ),
    AdapterInfo(
        "direct",
        "One structured-output call made from the signature, without DSPy",
        "workers.adapters.direct.direct_adapter:DirectAdapter",
        Capabilities(modules=frozenset({"predict"}), supports_streaming=True, takes_nested_media=False),
        requires=("lm15", "aiohttp"),
        install="dspex[worker]",
    ),
    AdapterInfo(
        "scripted",
        "The deterministic test double: the whole path is real, but no model is called",
        "workers.adapters.scripted_adapter:ScriptedAdapter",
        Capabilities(
            modules=frozenset({"predict", "chain_of_thought"}),
            options=frozenset({"sleep_ms", "calls", "cost_usd", "outputs", "fail", "die"}),
            calls_models=False,
            supports_streaming=True,
        ),
    ),
)


def adapters() -> Mapping[str, AdapterInfo]:
    """The adapters known here, by name: built-in adapters and adapters of installed packages.

    A package whose entry point cannot be imported is left out; :func:`unloadable` has the reason. Raises
    ConfigurationError when two claim one name or an entry point is not an AdapterInfo.
    """
    return _known()[0]


def unloadable() -> Mapping[str, str]:
    """The entry points that could not be imported, by name, with the reason."""
    return _known()[1]


def look_again() -> None:
    """Clear the registry, so that the next call finds packages installed in the meantime."""
    _known.cache_clear()


@cache
def _known() -> tuple[Mapping[str, AdapterInfo], Mapping[str, str]]:
    found = {info.name: info for info in BUILT_IN}
    broken = {}
    for point in entry_points(group="dspex.adapters"):
        try:
            info = point.load()
        except Exception as error:  # third-party code: its failure must not hide the other adapters
            broken[point.name] = f"{point.value}: {type(error).__name__}: {error}"
            continue
        if not isinstance(info, AdapterInfo):
            raise ConfigurationError(
                f"entry point {point.name!r} of group dspex.adapters is not an AdapterInfo: {point.value}"
            )
        if info.name in found:
            raise ConfigurationError(f"two adapters are named {info.name!r}: rename the one of {point.value}")
        found[info.name] = info
    return MappingProxyType(found), MappingProxyType(broken)
