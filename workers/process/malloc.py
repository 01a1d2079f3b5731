"""How a worker uses memory: settings of the C library and of Python's collector, made once as it starts."""

from __future__ import annotations

import contextlib
import ctypes
import gc

__all__ = ["freeze_and_trim", "share_one_heap"]

#: How many new objects there are before the collector looks for cycles. Hundreds of running executions have fewer; they
#: leave no cycles, and would be searched again and again while they run. Python's own setting is 700.
YOUNG_OBJECTS = 25_000
#: M_ARENA_MAX of glibc's malloc.h.
_ARENA_MAX = -8


def share_one_heap() -> None:
    """Have all threads share one heap, where the C library can (glibc): a heap for each thread is never quite full.

    Python's lock lets the threads allocate one at a time anyway. It saves 2 MiB; call it before threads start.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_ARENA_MAX, 1)


def freeze_and_trim() -> None:
    """Exempt all present objects from collection, which saves a twelfth of what a no-op execution costs.

    Memory that was needed only for the start goes back to the system, where the C library can (glibc): 5 MiB with DSPy.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
