"""Names for the columns that are added to a table."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import count

__all__ = ["free_names"]


def free_names(names: Sequence[str], taken: Collection[str], ending: str) -> list[str]:
    """The names, which differ from each other, each as a column beside those that are ``taken``.

    One that is taken becomes ``NAME_ending``; where that is the name of a column too, ``NAME_ending_2``, and so on.
    """
    used = {*taken, *names}
    free = []
    for name in names:
        found = next(other for other in _others(f"{name}_{ending}") if other not in used) if name in taken else name
        used.add(found)
        free.append(found)
    return free


def _others(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}_{number}" for number in count(2))
