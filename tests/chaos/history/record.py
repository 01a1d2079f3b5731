"""The history: what each process asked and what it saw, as JSON lines.

One line for an invocation and one for its response. Times are ``time.monotonic()``, which all processes of one machine
share; ``wall`` is the system's clock, which no fault changes for the processes that record. A line is written with one
system call, so a process that is killed leaves whole lines. An operation without a response has an unknown outcome,
and so has one whose error leaves open whether it took effect.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from dspex.errors import BackendUnavailable, DspexError

__all__ = ["Operation", "Outcome", "Recorder", "operations", "read_history"]

#: ``ok``: it returned. ``failed``: it was refused and took no effect. ``unknown``: it may take effect, now or later.
#: ``broken``: it raised something that is not a DspexError.
Outcome = Literal["ok", "failed", "unknown", "broken"]

MESSAGE_MOST = 500


@dataclass(frozen=True, slots=True)
class Operation:
    """An invocation with its response. ``ended`` is infinite while the outcome is unknown."""

    process: str
    action: str
    began: float
    ended: float
    outcome: Outcome
    given: Mapping[str, Any] = field(default_factory=dict)
    seen: Mapping[str, Any] = field(default_factory=dict)
    #: When it began and ended by the system's clock.
    wall: tuple[float, float] = (0.0, 0.0)

    @property
    def may_have_happened(self) -> bool:
        """Whether it took effect, or may yet."""
        return self.outcome in ("ok", "unknown")


class Recorder:
    """Writes the lines of one process. Safe to share between threads."""

    def __init__(self, directory: Path, process: str) -> None:
        self.directory = directory
        self.process = process
        self._file = os.open(directory / f"{process}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._numbers = itertools.count()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    @contextmanager
    def operation(self, action: str, **given: Any) -> Iterator[dict[str, Any]]:
        """Record the block as one operation: what it puts into the mapping is what was seen.

        Errors end the block and are recorded. A recorded operation without errors has the key ``ok``.
        """
        number = next(self._numbers)
        seen: dict[str, Any] = {}
        self._write(number, "invoked", action, given)
        try:
            yield seen
        except BackendUnavailable as error:
            self._write(number, "unknown", action, {**seen, **_described(error)})
        except DspexError as error:
            self._write(number, "failed", action, {**seen, **_described(error)})
        except Exception as error:  # the checker reports it
            self._write(number, "broken", action, {**seen, **_described(error)})
        else:
            self._write(number, "ok", action, seen)
            seen["ok"] = True

    def _write(self, number: int, phase: str, action: str, data: Mapping[str, Any]) -> None:
        line = {
            "at": time.monotonic(), "wall": time.time(), "process": self.process, "number": number, "phase": phase,
            "action": action, "data": data,
        }  # fmt: skip
        os.write(self._file, json.dumps(line, default=str).encode() + b"\n")


def read_history(directory: Path) -> list[Operation]:
    """The operations of all processes that recorded in a directory, in the order in which they began."""
    files = sorted(directory.glob("*.jsonl"))
    return operations(json.loads(line) for file in files for line in file.read_text().splitlines())


def operations(lines: Iterable[Mapping[str, Any]]) -> list[Operation]:
    """Invocations joined with their responses, in the order in which they began."""
    invoked: dict[tuple[str, int], Mapping[str, Any]] = {}
    found = []
    for line in lines:
        key = (line["process"], line["number"])
        if line["phase"] == "invoked":
            invoked[key] = line
        else:
            found.append(_joined(invoked.pop(key), line["phase"], line["at"], line["wall"], line["data"]))
    found += [_joined(line, "unknown", math.inf, math.inf, {}) for line in invoked.values()]
    return sorted(found, key=lambda operation: operation.began)


def _joined(line: Mapping[str, Any], outcome: Outcome, at: float, wall: float, seen: Mapping[str, Any]) -> Operation:
    ended = math.inf if outcome == "unknown" else at
    return Operation(
        line["process"], line["action"], line["at"], ended, outcome, line["data"], seen, (line["wall"], wall)
    )


def _described(error: Exception) -> dict[str, Any]:
    return {"error": type(error).__name__, "message": str(error)[:MESSAGE_MOST]}
