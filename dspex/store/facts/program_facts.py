"""Versions of programs that live workers cannot run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, RowMapping, text

from dspex.store.lifecycle.dispatch import held
from dspex.store.workers import LIVE, UnrunnableVersion

__all__ = ["RefusedVersion", "deployed", "refused_versions"]

_LIVE = text(f"""
SELECT w.host, w.pid, w.unrunnable FROM dspex.workers w WHERE w.state = 'running' AND {LIVE} ORDER BY w.host, w.pid
""")  # noqa: S608
_CURRENT = text("SELECT name || ' ' || version FROM dspex.programs WHERE name || ' ' || version = ANY(:keys)")


@dataclass(frozen=True, slots=True)
class RefusedVersion:
    """A version that some or all live workers cannot run, and the reason that the first of them gives.

    ``current``: it is the deployed version. ``held``: how many of its executions wait for a worker that can run it.
    """

    program: str
    version: str
    reason: str
    workers: Sequence[str]
    by_all: bool
    current: bool
    held: int

    @property
    def where(self) -> str:
        """The workers that cannot run it, as text."""
        return "any live worker" if self.by_all else ", ".join(self.workers)


def deployed(connection: Connection) -> int:
    """How many programs are deployed."""
    return int(connection.scalar(text("SELECT count(*) FROM dspex.programs")) or 0)


def refused_versions(connection: Connection) -> list[RefusedVersion]:
    """The versions that live workers cannot run, and that are deployed or have executions waiting."""
    live = connection.execute(_LIVE).mappings().all()
    refusals = _refusals(live)
    if not refusals:
        return []
    current = set(connection.scalars(_CURRENT, {"keys": [version.key for version in refusals]}))
    waiting = {(each.program, each.version): each.executions for each in held(connection)}
    found = [
        RefusedVersion(
            *version, workers=names, by_all=len(names) == len(live), current=version.key in current,
            held=waiting.get((version.program, version.version), 0),
        )
        for version, names in refusals.items()
    ]  # fmt: skip
    return [each for each in found if each.current or each.held]


def _refusals(live: Sequence[RowMapping]) -> dict[UnrunnableVersion, list[str]]:
    """The workers that cannot run a version, by the version with the first one's reason."""
    first: dict[str, UnrunnableVersion] = {}
    names: defaultdict[str, list[str]] = defaultdict(list)
    for worker in live:
        for version in map(UnrunnableVersion.decode, worker["unrunnable"]):
            first.setdefault(version.key, version)
            names[version.key].append(f"{worker['host']}:{worker['pid']}")
    return {version: names[key] for key, version in first.items()}
