"""Blocking code on an event loop, in a greenlet: where it would wait, the greenlet is suspended and the task awaits.

:func:`in_greenlet` is SQLAlchemy's ``greenlet_spawn``, and SQLAlchemy's ``await_only`` is what is called in it to wait.
But a greenlet that has done its work is kept for the next: to make one, with a stack of its own, costs as much CPU as
the validation of a submit.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from greenlet import getcurrent, greenlet  # type: ignore[import-untyped]

__all__ = ["in_greenlet", "let_greenlets_go"]

T = TypeVar("T")

#: The most greenlets that a thread keeps.
KEPT_MOST = 100


class _Greenlet(greenlet):  # type: ignore[misc]
    """Does one work after the other, and waits for the next in between. One whose work raises an error ends."""

    #: ``await_only`` looks for it.
    __sqlalchemy_greenlet_provider__ = True

    def __init__(self) -> None:
        super().__init__(_serve)
        self.work: Callable[[], Any] | None = None


def _serve() -> None:
    """Work for the current greenlet. While it waits, its frame does not refer to it: it ends when it is dropped."""
    while True:
        _parent().switch(_value())


def _parent() -> greenlet:
    parent = getcurrent().parent
    assert parent is not None
    return parent


def _value() -> Any:
    own = getcurrent()
    assert isinstance(own, _Greenlet)
    assert own.work is not None
    value = own.work()
    own.work = None
    return value


class _Kept(threading.local):
    """The greenlets of this thread that wait for work: none can be used by another thread."""

    def __init__(self) -> None:
        self.greenlets: list[_Greenlet] = []


_kept = _Kept()


async def in_greenlet(work: Callable[[], T]) -> T:
    """The value of ``work``, which may call a LoopDatabase."""
    kept, current = _kept.greenlets, getcurrent()
    used = kept.pop() if kept else _Greenlet()
    used.parent, used.gr_context, used.work = current, current.gr_context, work
    value = used.switch()
    while used.work is not None:
        try:
            answer = await value
        except BaseException:
            value = used.throw(*sys.exc_info())
        else:
            value = used.switch(answer)
    used.gr_context = None
    if len(kept) < KEPT_MOST:
        kept.append(used)
    result: T = value
    return result


def let_greenlets_go() -> None:
    """End the greenlets that this thread keeps."""
    _kept.greenlets.clear()
