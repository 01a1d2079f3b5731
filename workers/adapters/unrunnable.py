"""The versions of programs that this worker cannot run, although another worker may.

It lacks an adapter or a type that the program names, it cannot import the program's code, or what is stored is not a
program. The claim statement leaves out their executions, and the heartbeat publishes them, so that the pump does not
dispatch executions that no worker can run.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence

from dspex.errors import DspexError
from dspex.store.workers import UnrunnableVersion

__all__ = ["LACKS_KEY", "RUNS_ELSEWHERE", "UnrunnablePrograms"]

log = logging.getLogger("dspex.workers")

#: The codes of errors that mean: this worker cannot run the program. No attempt has begun then.
RUNS_ELSEWHERE = frozenset(
    {"adapter_unavailable", "code_not_found", "interpreter_missing", "module_missing", "program_unreadable"}
)
#: The codes of errors that mean: this worker lacks the key of an execution's values. Other executions of the version
#: may be sealed with a key that it has.
LACKS_KEY = frozenset({"encryption_key_missing", "encryption_key_unknown"})
#: For how long a lacking key is reported: longer than such an execution waits before its next attempt.
REPORT_SECONDS = 900.0
#: The most characters of a reason; each heartbeat stores it.
REASON_MOST = 500


class UnrunnablePrograms:
    """Changed by the loop's thread; any thread may read."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], UnrunnableVersion] = {}
        self._keys: tuple[str, ...] = ()
        self._programs: frozenset[str] = frozenset()
        self._lacking = ""
        self._lacked_at = -math.inf

    @property
    def versions(self) -> Sequence[UnrunnableVersion]:
        return list(self._found.values())

    @property
    def keys(self) -> Sequence[str]:
        """The versions as the claim statement compares them."""
        return self._keys

    def __contains__(self, program: object) -> bool:
        """Whether a version of the program is among them."""
        return program in self._programs

    @property
    def trouble(self) -> str | None:
        """Which key an execution needed lately that this worker lacks; None if it lacks none."""
        return self._lacking if time.monotonic() - self._lacked_at < REPORT_SECONDS else None

    def note_lacking_key(self, program: str, error: DspexError) -> None:
        """An execution of the program is sealed with a key that this worker lacks. When it is news, it is logged."""
        if self.trouble is None:
            log.error("an execution of program %r is left to a worker that has its key: %s", program, error)
        self._lacking = f"executions of program {program!r} wait for a worker that has their key: {error}"
        self._lacked_at = time.monotonic()

    def add(self, program: str, version: str, error: DspexError) -> None:
        """This worker cannot run the version, for this reason. The first time, it is logged."""
        reason = str(error).encode(errors="replace").decode().replace("\0", "\ufffd")[:REASON_MOST]
        if (program, version) not in self._found:
            log.error(
                "program %r, version %s cannot run in this worker; its executions are left to other workers: %s",
                program, version, reason,
            )  # fmt: skip
        self._found[program, version] = UnrunnableVersion(program, version, reason)
        self._index()

    def remove(self, program: str, version: str) -> None:
        """The worker can run it now, or it is not stored any more."""
        if self._found.pop((program, version), None) is not None:
            log.info("program %r, version %s: this worker no longer refuses it", program, version)
            self._index()

    def _index(self) -> None:
        self._keys = tuple(each.key for each in self._found.values())
        self._programs = frozenset(program for program, _ in self._found)
