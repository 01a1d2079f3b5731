"""The versions of a program, and what is done with them: promotion, aliases and rollouts, each by somebody."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from dspex.client.improvement.program_diff import Difference, program_diff
from dspex.errors import FieldError, ValidationError
from dspex.program.improvement.rollout_guard import Guard, RolloutFigures
from dspex.serve.access.principal import Principal
from dspex.serve.gateway import Gateway
from dspex.store.improvement import program_versions, rollouts
from dspex.store.improvement.program_versions import Version
from dspex.store.improvement.rollouts import Rollout

__all__ = [
    "ComparedVersions",
    "begin_rollout",
    "compared_versions",
    "end_rollout",
    "guard_of",
    "parent_of",
    "promote",
    "recent_figures",
    "set_alias",
    "versions_of",
]

log = logging.getLogger("dspex.serve")

_GUARDED = ("max_error_rate", "min_score", "max_cost_ratio", "min_executions")
#: What the note of a version that an optimiser made says of where it comes from (optimizer_module.py).
_PARENT = re.compile(r"\bfrom ([0-9a-f]{16})\b")


@dataclass(frozen=True, slots=True)
class ComparedVersions:
    """Two versions of a program, and every difference between them."""

    before: str
    after: str
    differences: Sequence[Difference]


async def versions_of(
    gateway: Gateway, principal: Principal, name: str, *, after: str | None = None, limit: int
) -> tuple[Sequence[Version], str | None]:
    """A page of the versions of a program, the newest first, and the one to continue after. Raises ProgramNotFound."""
    principal.require_program(name)
    read = partial(program_versions.listing, name=name, after=after, most=limit + 1)
    found = await gateway.call(gateway.session.database.run, read)
    if not found and after is None:
        await gateway.client.program(name)  # raises the error, with a name that is near
    return found[:limit], found[limit - 1].version if len(found) > limit else None


async def compared_versions(
    gateway: Gateway, principal: Principal, name: str, before: str, after: str
) -> ComparedVersions:
    """What differs between two versions, or aliases, of a program. Raises ProgramNotFound."""
    principal.require_program(name)
    old, new = await gateway.client.program(name, before), await gateway.client.program(name, after)
    return ComparedVersions(old.version, new.version, await gateway.in_thread(program_diff, old, new))


async def promote(gateway: Gateway, principal: Principal, name: str, version: str) -> None:
    """Make a version the current one. Raises ProgramNotFound."""
    _require(principal, name, "promoting a version")
    log.info("%s promotes version %s of program %s", principal.name, version, name)
    await gateway.client.promote(name, version, by=principal.name)


async def set_alias(gateway: Gateway, principal: Principal, name: str, alias: str, version: str) -> None:
    """Let an alias stand for a version. Raises ProgramNotFound, ValidationError."""
    _require(principal, name, "an alias")
    log.info("%s lets alias %s of program %s stand for version %s", principal.name, alias, name, version)
    await gateway.client.alias(name, alias, version, by=principal.name)


async def begin_rollout(
    gateway: Gateway, principal: Principal, name: str, version: str, *, percent: float, guard: Guard
) -> Rollout:
    """Send a share of the new submits to a version. Raises ProgramNotFound, ValidationError."""
    _require(principal, name, "a rollout")
    begun = await gateway.client.rollout(name, version, percent=percent, guard=guard, by=principal.name)
    log.info("%s sends %g %% of the submits of program %s to version %s", principal.name, percent, name, begun.version)
    return begun


async def end_rollout(gateway: Gateway, principal: Principal, name: str) -> Rollout | None:
    """End the rollout of a program; None when there is none. Raises ProgramNotFound."""
    _require(principal, name, "a rollout")
    await gateway.client.program(name)
    log.info("%s ends the rollout of program %s", principal.name, name)
    return await gateway.client.end_rollout(name, by=principal.name)


async def recent_figures(gateway: Gateway, rollout: Rollout, current: str) -> RolloutFigures:
    """What the latest executions of a rollout came to, beside the executions of the ``current`` version."""
    return await gateway.call(gateway.session.database.run, partial(rollouts.recent, rollout=rollout, current=current))


def guard_of(values: Mapping[str, Any]) -> Guard:
    """The guard with these values, of which None and missing ones are no limit. Raises ValidationError."""
    given = {name: value for name, value in values.items() if value is not None}
    if unknown := [FieldError(name[:60], f"only {', '.join(_GUARDED)}") for name in given if name not in _GUARDED]:
        raise ValidationError.of("guard", unknown)
    return Guard(**given)


def parent_of(version: Version) -> str | None:
    """The version that this one was made from, where its note says so."""
    found = _PARENT.search(version.note or "")
    return None if found is None else found[1]


def _require(principal: Principal, name: str, what: str) -> None:
    principal.require_program(name)
    if principal.tenant is not None:
        principal.require_whole(what)
