"""What the followers of a run are shown of an answer while it is written."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from workers.adapters.contract import StreamedAnswer
from workers.answers.expected import Output

__all__ = ["Shown"]


class Shown:
    """The fields that were published. If the answer turns out to be another, they are taken back: ``begin`` makes a
    new answer, and followers get a ``reset``. An output that is not the program's is not published."""

    def __init__(self, begin: Callable[[], StreamedAnswer], outputs: Mapping[str, Output]) -> None:
        self._begin = begin
        self._outputs = outputs
        self._answer = begin()
        self._names = {name: output.name for name, output in outputs.items() if output.name is not None}
        self._values: dict[str, Any] = {}
        self._parts: dict[str, list[str]] = {}
        self._is_void = False

    def void(self) -> None:
        """What was shown so far is not the answer, or there is another one."""
        self._is_void = True

    def open(self, name: str) -> None:
        """A field of an answer begins."""
        if name in self._names and (self._is_void or name in self._parts):
            self._restart()
        self._parts.setdefault(name, [])

    def text(self, name: str, more: str) -> None:
        if more and name in self._names and name not in self._values:
            self._parts.setdefault(name, []).append(more)
            self._answer.text(self._names[name] or "", more)

    def field(self, name: str, value: Any) -> None:
        """A field is complete. One that differs from its text is left to :meth:`settle`."""
        if name in self._names and name not in self._values:
            parts = self._parts.get(name)
            if parts and isinstance(value, str) and "".join(parts) != value and self._outputs[name].is_text:
                return
            self._values[name] = value
            self._answer.field(self._names[name] or "", value)

    def settle(self, values: Mapping[str, Any]) -> None:
        """These are the outputs: take back what was shown if it differs, and show the rest."""
        if self._differs(values):
            self._restart()
        for name, value in values.items():
            if name in self._names and name not in self._values:
                if not self._parts.get(name):
                    self.text(name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
                self.field(name, value)

    def _differs(self, values: Mapping[str, Any]) -> bool:
        shown = {name for name, parts in self._parts.items() if parts} | self._values.keys()
        return any(name not in values or not self._is_shown(name, values[name]) for name in shown & self._names.keys())

    def _is_shown(self, name: str, value: Any) -> bool:
        if name not in self._values:
            return isinstance(value, str) and "".join(self._parts[name]) == value
        shown = self._values[name]
        return type(shown) is type(value) and bool(shown == value)

    def _restart(self) -> None:
        if self._parts or self._values:
            self._answer = self._begin()
        self._values, self._parts, self._is_void = {}, {}, False
