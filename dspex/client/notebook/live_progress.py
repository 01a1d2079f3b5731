"""A progress bar in notebooks, which moves while rows are waited for; nothing anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing
from typing import Any, TypeVar

from dspex.signatures.text_order import escaped

__all__ = ["in_notebook", "shown", "shown_async"]

T = TypeVar("T")

#: The least time between two changes of the bar.
SECONDS = 0.25


def in_notebook() -> bool:
    """Whether this code runs in the kernel of a notebook. IPython is not imported for it."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


def shown(items: Iterable[T], label: str, total: int | None) -> Iterator[T]:
    """The items; in a notebook with a bar that counts them."""
    if not in_notebook():
        yield from items
        return
    bar = _Bar(label, total)
    try:
        for item in items:
            bar.count()
            yield item
    finally:
        bar.end()


async def shown_async(items: AsyncGenerator[T, None], label: str, total: int | None) -> AsyncGenerator[T, None]:
    """:func:`shown` for an asynchronous source."""
    bar = _Bar(label, total) if in_notebook() else None
    try:
        async with aclosing(items):
            async for item in items:
                if bar is not None:
                    bar.count()
                yield item
    finally:
        if bar is not None:
            bar.end()


class _Bar:
    """A bar in the output of a notebook's cell, updated in place."""

    def __init__(self, label: str, total: int | None) -> None:
        from IPython.display import display

        self._label = label
        self._total = total
        self._done = 0
        self._began = self._drawn_at = time.monotonic()
        self._handle: Any = display(_Html(self._drawn()), display_id=True)

    def count(self) -> None:
        self._done += 1
        if time.monotonic() - self._drawn_at >= SECONDS:
            self._draw()

    def end(self) -> None:
        self._draw()

    def _draw(self) -> None:
        self._drawn_at = time.monotonic()
        self._handle.update(_Html(self._drawn()))

    def _drawn(self) -> str:
        seconds = time.monotonic() - self._began
        rate = self._done / seconds if seconds > 0 else 0.0
        of = "" if self._total is None else f" of {self._total:,}"
        most = "" if self._total is None else f' value="{self._done}" max="{max(self._total, 1)}"'
        left = ""
        if self._total is not None and rate and self._done < self._total:
            left = f", {(self._total - self._done) / rate:,.0f} s left"
        text = f"{self._label}: {self._done:,}{of}, {rate:,.0f}/s{left}"
        return f"<div><progress{most}></progress> {escaped(text)}</div>"


class _Html:
    """An object that a notebook shows as this HTML."""

    def __init__(self, text: str) -> None:
        self._text = text

    def _repr_html_(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return ""
