"""The deployed programs, cached in the client: read once, and again when the cached version is out of date."""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Mapping
from functools import partial
from typing import Any

from dspex.client.lookup import program_not_found
from dspex.errors import FieldError, ProgramError, ProgramNotFound, ProgramVersionMismatch, ValidationError
from dspex.program.modules import is_in_dspy, runs_code
from dspex.program.program import Program
from dspex.program.storable_text import STORABLE, is_storable
from dspex.store import programs, workers
from dspex.store.database import Database
from dspex.store.improvement import program_versions
from dspex.store.programs import Deployed
from dspex.store.workers import refused_modules
from dspex.submit.size_limits import Bounds

__all__ = ["Catalogue"]

log = logging.getLogger("dspex")

#: The most workers that a warning names.
MOST_NAMED = 5
#: Anything else that stands for a version is an alias.
_VERSION = re.compile(r"[0-9a-f]{16}")
_ALIAS = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,99}")


class Catalogue:
    """The deployed programs and their versions. Safe to share between threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._current: dict[str, Deployed] = {}
        self._versions: dict[tuple[str, str], Program] = {}

    def deploy(
        self,
        program: Program,
        bounds: Bounds,
        *,
        current: bool = True,
        note: str | None = None,
        by: str | None = None,
        candidate: bool = False,
    ) -> Deployed:
        """Store the program, and make this version the current one unless ``current`` is false. A ``candidate`` is a
        version that an optimiser tries.

        Raises ValidationError when it is too large, and ProgramError when there are live workers and none of them can
        run it: ``module_missing`` where their DSPy lacks its module, ``interpreter_missing`` where it runs code that
        the model writes and they have no interpreter. A candidate is not checked: its code is its program's.
        """
        if faults := list(bounds.program_faults(json.dumps(program.content, ensure_ascii=False).encode())):
            raise ValidationError.of(f"program {program.name!r}", faults)
        if runs_code(program.module) and not candidate:
            self._require_able_workers(program)
        deployed = self._database.run(
            partial(programs.deploy, program=program, current=current, note=note, by=by, candidate=candidate),
            saved=f"program {program.name!r} was not deployed",
        )
        if current:
            self._remember(deployed)
        else:
            self._versions[program.name, program.version] = program
        if program.own_modules and not candidate:
            self._warn_of_refusals(program)
        return deployed

    def _warn_of_refusals(self, program: Program) -> None:
        """Log a warning if live workers do not allow the program's own code."""
        live = self._live_workers()
        refusing = [worker for worker in live if refused_modules(program, worker)]
        if refusing:
            log.warning(
                "program %r is deployed, but %d of %d live workers will refuse it (%s): their DSPEX_PROGRAM_PACKAGES "
                "does not allow %s; set it where they run, and restart them",
                program.name, len(refusing), len(live),
                ", ".join(f"process {worker['pid']} on {worker['host']}" for worker in refusing[:MOST_NAMED]),
                ", ".join(sorted({name for worker in refusing for name in refused_modules(program, worker)})),
            )  # fmt: skip

    def _require_able_workers(self, program: Program) -> None:
        live = self._live_workers()
        releases = {worker["dspy"] or "" for worker in live}
        if live and not any(is_in_dspy(program.module, release) for release in releases):
            raise ProgramError(
                f"program {program.name!r} was not deployed: the live workers have DSPy {', '.join(sorted(releases))}, "
                f"which has no module {program.module!r}: use module 'rlm', or a DSPy that has it in the workers",
                code="module_missing",
                program=program.name,
            )
        if live and not any(worker["code_interpreter"] for worker in live):
            raise ProgramError(
                f"program {program.name!r} was not deployed: module {program.module!r} runs code that the model "
                f"writes, and none of the {len(live)} live workers has an interpreter: install Deno's sandbox with "
                '`pip install "dspex[code]"`, or name another interpreter in DSPEX_CODE_INTERPRETER',
                code="interpreter_missing",
                program=program.name,
            )

    def _live_workers(self) -> list[Mapping[str, Any]]:
        return [worker for worker in self._database.run(workers.listing) if worker["live"]]

    def has(self, name: str, version: str) -> bool:
        """Whether this version was read already."""
        return (name, version) in self._versions

    def version(self, name: str, version: str) -> Program:
        """This version of the program. Raises ProgramNotFound."""
        known = self._versions.get((name, version))
        if known is None:
            known = self._database.run(partial(programs.load, name=name, version=version))
            if known is None:
                raise ProgramNotFound(f"program {name!r} has no version {version}", program=name, version=version)
            self._versions[name, version] = known
        return known

    def named(self, name: str, version: str) -> Program:
        """The version that a version or an alias names. Raises ProgramNotFound."""
        if _VERSION.fullmatch(version):
            return self.version(name, version)
        found = self._database.run(partial(program_versions.aliased, name=name, alias=version))
        if found is None:
            self._deployed(name, fresh=True)  # raises the error for a program that is not there
            known = ", ".join(self._database.run(partial(program_versions.aliases, name=name)))
            aliases = f"its aliases are {known}" if known else "it has no aliases"
            raise ProgramNotFound(
                f"program {name!r} has no version or alias {version!r}; {aliases}, and "
                f"`dspex versions {name}` shows its versions",
                program=name, version=version,
            )  # fmt: skip
        return self.version(name, found)

    def set_alias(self, name: str, alias: str, version: str, *, by: str | None = None) -> str:
        """Let an alias stand for a version, which a version or an alias names; returns that version.

        Raises ProgramNotFound, and ValidationError for an alias that is not a name or looks like a version.
        """
        if not _ALIAS.fullmatch(alias) or _VERSION.fullmatch(alias):
            expected = "letters, digits, _ . and -, beginning with a letter, and not a version"
            raise ValidationError.of(f"program {name!r}", [FieldError("alias", expected, repr(alias)[:80])])
        found = self.named(name, version).version
        self._database.run(partial(program_versions.set_alias, name=name, alias=alias, version=found, by=by))
        return found

    def known(self, program: str | Program) -> Deployed | None:
        """:meth:`deployed` without asking Postgres; None when that has to be done."""
        if isinstance(program, str):
            return self._current.get(program)
        known = self._current.get(program.name)
        return known if known is not None and known.program.version == program.version else None

    def current(self, program: str | Program, *, fresh: bool = False) -> Program:
        """The deployed version of a program; ``fresh``: read even if it is cached.

        Raises ProgramNotFound, and ProgramVersionMismatch for a program in hand that is not the deployed version.
        """
        return self.deployed(program, fresh=fresh).program

    def deployed(self, program: str | Program, *, fresh: bool = False) -> Deployed:
        """The deployed program with the rollout under way. ``fresh`` and errors as for :meth:`current`."""
        if isinstance(program, str):
            return self._deployed(program, fresh=fresh)
        deployed = self._deployed(program.name, fresh=fresh)
        if deployed.program.version != program.version and not fresh:
            deployed = self._deployed(program.name, fresh=True)
        if deployed.program.version != program.version:
            raise ProgramVersionMismatch(
                f"program {program.name!r} in hand is version {program.version}, deployed is "
                f"{deployed.program.version}: deploy it, or submit by name",
                program=program.name, version=program.version, deployed=deployed.program.version,
            )  # fmt: skip
        return deployed

    def _deployed(self, name: str, *, fresh: bool) -> Deployed:
        if not is_storable(name):
            raise ValidationError.of("program", [FieldError("name", STORABLE, repr(name)[:80])])
        known = None if fresh else self._current.get(name)
        if known is None:
            known = self._database.run(partial(programs.current, name=name))
            if known is None:
                raise program_not_found(self._database, name)
            self._remember(known)
        return known

    def _remember(self, deployed: Deployed) -> None:
        with self._lock:
            self._current[deployed.program.name] = deployed
            self._versions[deployed.program.name, deployed.program.version] = deployed.program
