"""Exceptions raised in a thread where signal handlers run: where a function begins, and after a call of C code."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["Interrupt", "Interrupted", "TimeLimit"]


class Interrupted(BaseException):
    """As KeyboardInterrupt."""


class TimeLimit(Exception):
    """As Celery's SoftTimeLimitExceeded."""


class Interrupt:
    """Raises once in this thread, at such a point within these files: the first, the second, and so on."""

    def __init__(self, at: int, error: type[BaseException], files: Collection[str]) -> None:
        self._left = at
        self._error = error
        self._files = tuple(files)
        self.was_raised = False

    @contextmanager
    def armed(self) -> Iterator[None]:
        sys.setprofile(self._profile)
        try:
            yield
        finally:
            sys.setprofile(None)

    def _profile(self, frame: FrameType, event: str, _argument: Any) -> None:
        if self.was_raised or event not in ("call", "c_return") or not frame.f_code.co_filename.endswith(self._files):
            return
        self._left -= 1
        if self._left == 0:
            self.was_raised = True
            raise self._error
